"""Images that data.predict names: files, folders, patterns and lists."""

from pathlib import Path

import pytest
from PIL import Image

from darkroom.datamodules.prediction.sources import find_sources
from darkroom.datamodules.shapes.segmentation import ShapesSegmentation
from darkroom.errors import DataError


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("a.jpg", "b.png", "day 1/c.jpg", "day 1/d.JPG", "day[2]/e.png", ".hidden.png"):
        path = Path("photos", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (6, 4)).save(path)
    Path("photos/notes.txt").write_text("no image")
    Path("empty").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("sources", "names"),
    [
        ("photos", "a b c d e"),
        ("photos/b.png", "b"),
        ("photos/*.jpg", "a"),
        ("photos/**/*", "a b c d e"),
        ("photos/day*/*", "c d e"),
        ("photos/day[2]", "e"),
        ("photos/day 1/d.JPG", "d"),
        (["photos/b.png", "photos/day 1", "photos/a.jpg"], "b c d a"),
        (["photos/b.png", "photos", "./photos/*.png"], "b a c d e"),
    ],
)
@pytest.mark.usefixtures("photos")
def test_sources_are_files_folders_patterns_and_lists(sources: str | list[str], names: str) -> None:
    assert [path.stem for path in find_sources(sources)] == names.split()


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        (
            "photo",
            "data.predict: photo does not exist; it must be a file, a folder, or a pattern.*has the folders empty, ph",
        ),
        ("photos/x.jpg", "data.predict: photos/x.jpg does not exist"),
        (["photos", "empty"], "data.predict: empty has no images"),
        ("photos/*.gif", "data.predict: photos/\\*.gif has no images"),
        ("photos/notes.txt", "data.predict: photos/notes.txt must be an image or a video \\(.png"),
        ([], "data.predict must name at least one"),
    ],
)
@pytest.mark.usefixtures("photos")
def test_sources_without_images_raise(sources: str | list[str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        find_sources(sources)


@pytest.mark.usefixtures("photos")
def test_prediction_uses_all_sources_and_states_its_length() -> None:
    data = ShapesSegmentation(predict=["photos/b.png", "photos/day*/*.jpg"], num_workers=0)
    data.setup("predict")
    loader = data.predict_dataloader()
    assert len(loader) == 2
    assert [batch["path"] for batch in loader] == [["photos/b.png"], ["photos/day 1/c.jpg"]]
