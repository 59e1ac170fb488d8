"""Options that differ from defaults, which are read from the sources."""

import pytest

from darkroom.report.defaults import differences


def test_class_that_is_named_as_its_parent_has_options_of_both() -> None:
    scheduler = "lightning.pytorch.cli.ReduceLROnPlateau"
    options = {"monitor": "val/accuracy", "factor": 0.5, "patience": 10}
    config = {"model": {"class_path": scheduler, "init_args": options}}
    assert differences(config) == [("model.monitor", "val/accuracy", "required"), ("model.factor", 0.5, 0.1)]


def test_class_without_source_has_no_defaults() -> None:
    assert differences({"model": {"class_path": "missing.Network", "init_args": {"width": 2}}}) == [
        ("model.width", 2, None)
    ]


@pytest.mark.parametrize("value", [0, None])
def test_default_seed_is_no_difference(value: int | None) -> None:
    assert differences({"seed_everything": value}) == []
