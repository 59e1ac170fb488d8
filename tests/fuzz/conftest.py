"""Put every test of this folder into the fuzz lane, and Hypothesis's database outside the repository."""

import tempfile
from pathlib import Path

import pytest
from hypothesis.configuration import set_hypothesis_home_dir

set_hypothesis_home_dir(Path(tempfile.gettempdir(), "darkroom-hypothesis"))


@pytest.hookimpl(tryfirst=True)  # before pytest deselects by marker
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:  # those of all folders
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.fuzz)
