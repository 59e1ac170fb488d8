"""Figures and files of detection: boxes on images, errors, W&B boxes, COCO JSON; with synthetic detections."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from faster_coco_eval.core import mask as coco_mask
from lightning import LightningModule, Trainer
from lightning.pytorch.loggers import WandbLogger
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from darkroom.callbacks.loggers.detection_logger import DetectionLogger, for_wandb
from darkroom.callbacks.plotting.boxes import (
    captions,
    class_index,
    draw_boxes,
    filter_by_score,
    find_mistakes,
    mark_boxes,
    mark_mistakes,
)
from darkroom.callbacks.plotting.images import palette
from darkroom.callbacks.plotting.vector.marks import paint
from darkroom.callbacks.writers.detection_writer import DetectionWriter, coco_annotations, compress_runs, run_lengths
from darkroom.callbacks.writers.prediction_files import gather_rows
from darkroom.datamodules.detection.coco_detection import CocoDetection
from darkroom.datamodules.shapes.detection import ShapesDetection
from darkroom.errors import UsageError
from tests.fakes.boxes import coco_detection
from tests.runtime.test_wandb import read

NAMES = ("cat", "dog", "bird")
Detect = Callable[[Tensor, dict[str, Any]], dict[str, Tensor]]


def objects(*boxes: tuple[float, ...], labels: list[int] | None = None, scores: list[float] | None = None) -> dict:
    made = {"boxes": torch.tensor(boxes).view(-1, 4), "labels": torch.tensor(labels or [1] * len(boxes)).long()}
    return made | ({"scores": torch.tensor(scores)} if scores is not None else {})


def truth(image: Tensor, target: dict[str, Any]) -> dict[str, Tensor]:
    """Detect every object exactly."""
    found = {key: target[key] for key in ("boxes", "labels", "masks") if key in target}
    return found | {"scores": torch.linspace(0.9, 0.5, len(found["labels"]))}


def nothing(image: Tensor, target: dict[str, Any]) -> dict[str, Tensor]:
    return {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0).long(), "scores": torch.zeros(0)}


def one_box(image: Tensor, target: dict[str, Any]) -> dict[str, Tensor]:
    """Detect one dog in the upper left, half as wide and a quarter as high as its image."""
    height, width = image.shape[-2:]
    mask = torch.zeros(1, height, width, dtype=torch.bool)
    mask[:, : height // 4, : width // 2] = True
    return {**objects((0, 0, width / 2, height / 4), labels=[2], scores=[0.75]), "masks": mask}


class Detector(LightningModule):
    """Detector that returns the detections of a given function."""

    def __init__(self, detect: Detect) -> None:
        super().__init__()
        self.find, self.forwards, self.weight = detect, 0, nn.Parameter(torch.zeros(1))

    def detect(self, batch: dict[str, Any]) -> list[dict[str, Tensor]]:
        self.forwards += 1
        return [self.find(*pair) for pair in zip(batch["image"], batch.get("target", batch["image"]), strict=True)]

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        return self.weight.sum()

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> list[dict[str, Tensor]]:
        return self.detect(batch)

    test_step = predict_step = validation_step

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


def shapes(**kwargs: Any) -> ShapesDetection:
    sizes = {"train_size": 2, "val_size": 5, "test_size": 5, "side": 64, "batch_size": 2, "num_workers": 0}
    return ShapesDetection(**{**sizes, **kwargs})


def trainer(*callbacks: Any, logger: Any = False, **kwargs: Any) -> Trainer:
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    return Trainer(accelerator="cpu", logger=logger, callbacks=list(callbacks), default_root_dir=".", **quiet, **kwargs)


def read_image(path: str) -> Tensor:
    return torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1).int()


def rows(sheet: Tensor, side: int = 256) -> list[Tensor]:
    """Split a contact sheet into truth, prediction and errors, without the row names."""
    return [sheet[:, 4 + r * (side + 4) : (r + 1) * (side + 4), 80:] for r in range(3)]


# --- drawing ----------------------------------------------------------------------------------------------------------


def coloured(rendered: Tensor, label: int) -> Tensor:
    return (rendered == palette(255)[class_index(label)].view(3, 1, 1)).all(0)


def test_boxes_are_drawn_on_enlarged_small_images() -> None:
    rendered = draw_boxes(torch.full((3, 64, 100), 90, dtype=torch.uint8), objects((10, 20, 90, 60), labels=[2]), NAMES)
    assert rendered.shape == (3, 192, 300)
    dog = coloured(rendered, 2)
    assert dog[178:180, 30:270].all()  # the lower line: two pixels within the box, which ends at 60
    assert not dog[180:].any()
    assert not dog[:, 270:].any()
    assert not dog[:, :30].any()
    assert (rendered[:, 70:170, 40:260] == 90).all()  # and nothing within


def test_draw_boxes_keeps_large_images_or_fits_given_size() -> None:
    large, box = torch.zeros(3, 400, 600, dtype=torch.uint8), objects((0, 0, 600, 400))
    assert draw_boxes(large, box, NAMES).shape == (3, 400, 600)
    assert paint(mark_boxes(large, box, NAMES, size=(100, 150))).shape == (3, 100, 150)


@pytest.mark.parametrize("corner", [(0, 0), (236, 0), (0, 236), (236, 236)])
def test_class_names_stay_inside_image(corner: tuple[int, int]) -> None:
    x, y = corner
    rendered = draw_boxes(
        torch.zeros(3, 256, 256, dtype=torch.uint8), objects((x, y, x + 20, y + 20), scores=[0.5]), NAMES
    )
    filled = coloured(rendered, 1).sum()
    assert filled > 300  # a tag, not only the 144 pixels of the line
    shown = draw_boxes(torch.zeros(3, 256, 256, dtype=torch.uint8), objects((100, 100, 120, 120), scores=[0.5]), NAMES)
    assert filled == coloured(shown, 1).sum()  # the whole of it


def test_class_names_do_not_overlap() -> None:
    blank = torch.zeros(3, 256, 256, dtype=torch.uint8)
    same = objects(*[(100, 100, 120, 120)] * 40, labels=[1, 2] * 20, scores=[0.9] * 40)
    few, many = (draw_boxes(blank, {k: v[:n] for k, v in same.items()}, NAMES) for n in (8, 40))
    assert torch.equal(few, many)


def test_single_class_is_drawn_without_name() -> None:
    blank = torch.zeros(3, 256, 256, dtype=torch.uint8)
    assert coloured(draw_boxes(blank, objects((100, 100, 120, 120)), ("cell",)), 1).sum() == 2 * 40 + 2 * 32


@pytest.mark.parametrize("flag", ["difficult", "iscrowd"])
def test_difficult_and_crowd_boxes_are_dashed(flag: str) -> None:
    blank, box = torch.zeros(3, 256, 256, dtype=torch.uint8), objects((0, 0, 256, 256), (9, 9, 99, 99))
    solid, dashed = (draw_boxes(blank, {**box, flag: torch.tensor([on, False])}, ("",)) for on in (False, True))
    assert coloured(solid, 1)[:2].all()
    assert 0.4 < coloured(dashed, 1)[:2].float().mean() < 0.6
    assert torch.equal(solid[:, 9:99, 9:99], dashed[:, 9:99, 9:99])


def test_masks_are_tinted_with_highest_score_on_top() -> None:
    masks = torch.zeros(2, 256, 256, dtype=torch.bool)
    masks[0, 50:150, 50:150] = masks[1, 100:200, 100:200] = True
    both = {**objects((50, 50, 150, 150), (100, 100, 200, 200), labels=[1, 2], scores=[0.9, 0.8]), "masks": masks}
    rendered = draw_boxes(torch.full((3, 256, 256), 100, dtype=torch.uint8), both, NAMES)
    assert (rendered[:, 210:, 210:] == 100).all()
    inside, behind = rendered[:, 75, 75].int(), rendered[:, 175, 175].int()
    assert inside[0] > 130  # a translucent red
    assert behind[1] > 120  # and green
    assert coloured(rendered, 1)[120, 149]  # the first one's outline over the second one
    assert not coloured(rendered, 2)[101:149, 101:149].any()


def test_draw_boxes_handles_no_objects_and_1200_classes() -> None:
    blank = torch.full((3, 300, 256), 7, dtype=torch.uint8)
    empty = {**objects(), "masks": torch.zeros(0, 300, 256, dtype=torch.bool)}
    assert torch.equal(draw_boxes(blank, empty, NAMES), blank)
    many = [str(i) for i in range(1200)]
    assert not torch.equal(draw_boxes(blank, objects((9, 9, 50, 50), labels=[1200]), many), blank)


def test_captions_show_class_and_score() -> None:
    assert captions(objects((0, 0, 1, 1), (0, 0, 1, 1), labels=[3, 1]), NAMES) == ["bird", "cat"]
    assert captions(objects((0, 0, 1, 1), labels=[2], scores=[0.876]), NAMES) == ["dog 0.88"]


def test_filter_by_score_sorts_by_descending_score() -> None:
    found = objects(*[(i, 0, i + 1, 1) for i in range(4)], scores=[0.2, 0.9, 0.3, 0.5])
    assert filter_by_score(found, 0.3)["scores"].tolist() == pytest.approx([0.9, 0.5, 0.3])
    assert filter_by_score(found, 0.3, 2)["boxes"][:, 0].tolist() == [1, 3]


# --- errors -----------------------------------------------------------------------------------------------------------

BOX, NEAR, FAR = (10.0, 10.0, 30.0, 30.0), (12.0, 10.0, 32.0, 30.0), (60.0, 60.0, 80.0, 80.0)


@pytest.mark.parametrize(
    ("found", "target", "false", "missed"),
    [
        (objects(NEAR, scores=[0.9]), objects(BOX), [False], [False]),
        (objects(FAR, scores=[0.9]), objects(BOX), [True], [True]),
        (objects(NEAR, labels=[2], scores=[0.9]), objects(BOX), [True], [True]),
        (
            objects(BOX, NEAR, scores=[0.6, 0.9]),
            objects(BOX),
            [True, False],
            [False],
        ),  # a duplicate: the best score wins
        (objects(NEAR, BOX, scores=[0.9, 0.8]), objects(BOX, NEAR), [False, False], [False, False]),
        (objects(scores=[]), objects(BOX), [], [True]),
        (objects(BOX, scores=[0.9]), objects(), [True], []),
        (objects(scores=[]), objects(), [], []),
    ],
)
def test_find_mistakes_matches_coco_rules(found: dict, target: dict, false: list[bool], missed: list[bool]) -> None:
    assert [flags.tolist() for flags in find_mistakes(found, target)] == [false, missed]


def test_difficult_and_crowd_objects_cause_no_errors() -> None:
    target = {**objects(BOX, FAR), "difficult": torch.tensor([True, False])}
    twice = objects(BOX, NEAR, FAR, scores=[0.9, 0.8, 0.7])
    assert [flags.any().item() for flags in find_mistakes(twice, target)] == [False, False]
    assert find_mistakes(objects(scores=[]), target)[1].tolist() == [False, True]
    # small detections within a crowd, whose IoU with it is small; of another class they are wrong
    crowd = {**objects((0, 0, 100, 100)), "iscrowd": torch.tensor([True])}
    some = objects(BOX, FAR, FAR, labels=[1, 1, 2], scores=[0.9, 0.8, 0.7])
    assert find_mistakes(some, crowd)[0].tolist() == [False, False, True]


def test_errors_are_red_and_white_on_grey() -> None:
    photo = torch.full((3, 256, 256), 200, dtype=torch.uint8)
    rendered = paint(mark_mistakes(photo, objects(FAR, scores=[0.9]), objects(BOX), NAMES)).int()
    assert (rendered[0] - rendered[1] > 100).sum() > 144
    assert (rendered.amin(0) == 255).sum() > 100
    right = paint(mark_mistakes(photo, objects(NEAR, scores=[0.9]), objects(BOX), NAMES))
    assert right.unique().tolist() == [90]


# --- the logger -------------------------------------------------------------------------------------------------------


def test_logger_shows_same_scenes_and_reuses_step_outputs() -> None:
    rendered = []
    for detect in (truth, one_box, nothing):
        module = Detector(detect)
        trainer(DetectionLogger(num_samples=3)).validate(module, shapes(), verbose=False)
        assert module.forwards == 3  # batches; none for the figures
        rendered.append(rows(read_image("figures/val_detections/0000000.png")))
    assert rendered[0][0].shape[2] >= 3 * 256
    assert all(torch.equal(sheet[0], rendered[0][0]) for sheet in rendered)
    assert not torch.equal(rendered[0][1], rendered[1][1])
    errors = [sheet[2].amax(0) - sheet[2].amin(0) for sheet in rendered]
    assert [bool((error > 100).any()) for error in errors] == [False, True, False]  # red: false positive
    assert bool((rendered[2][2].amin(0)[:, :256] == 255).any())  # white: missed


def test_logger_runs_every_nth_validation_and_in_test() -> None:
    module, data = Detector(truth), shapes(masks=True)
    trainer(DetectionLogger(2, every_n_validations=2), max_epochs=3).fit(module, data)
    assert [path.name for path in sorted(Path("figures/val_detections").glob("*.png"))] == [
        "0000000.png",
        "0000002.png",
    ]
    trainer(DetectionLogger(2)).test(module, data, verbose=False)
    assert Path("figures/test_detections/0000000.png").is_file()


def test_resumed_run_keeps_every_nth_validation() -> None:
    module, data, before, after = Detector(truth), shapes(), DetectionLogger(2, 2), DetectionLogger(2, 2)
    fit = trainer(before, max_epochs=1)
    fit.fit(module, data)
    fit.save_checkpoint("last.ckpt")
    trainer(after, max_epochs=3).fit(module, data, ckpt_path="last.ckpt")
    assert [path.name for path in sorted(Path("figures/val_detections").glob("*.png"))] == [
        "0000000.png",
        "0000002.png",
    ]
    Path("figures/val_detections/0000000.png").unlink()
    trainer(DetectionLogger(2, 2)).validate(module, data, ckpt_path="last.ckpt", verbose=False)
    assert Path("figures/val_detections/0000000.png").is_file()


def test_low_scores_and_boxes_beyond_limit_are_not_drawn() -> None:
    def low_scores(image: Tensor, target: dict[str, Any]) -> dict[str, Tensor]:
        return objects(*[(4 * i, 0, 4 * i + 4, 9) for i in range(16)], scores=[0.29] * 16)

    sheets = []
    for detect, limit in ((nothing, 9), (low_scores, 9), (truth, 1), (truth, 9)):
        logger = DetectionLogger(2, score_threshold=0.3, max_boxes=limit)
        trainer(logger).validate(Detector(detect), shapes(objects=(3, 5)), verbose=False)
        sheets.append(rows(read_image("figures/val_detections/0000000.png"))[1])
    assert torch.equal(sheets[0], sheets[1])
    assert not torch.equal(sheets[2], sheets[3])


@pytest.mark.parametrize("mistake", [{"num_samples": 0}, {"max_boxes": 0}, {"score_threshold": 30.0}, {"side": 0}])
def test_invalid_settings_raise(mistake: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(mistake))):
        DetectionLogger(**mistake)


def test_step_without_detections_raises() -> None:
    class NoOutput(Detector):
        def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
            self.detect(batch)

    with pytest.raises(UsageError, match="NoOutput must return detections.*got NoneType"):
        trainer(DetectionLogger()).validate(NoOutput(truth), shapes(), verbose=False)


@pytest.mark.slow
def test_wandb_logs_toggleable_boxes_and_masks() -> None:
    logger = WandbLogger(save_dir=".", offline=True)
    data = shapes(masks=True)
    trainer(DetectionLogger(3), logger=logger).validate(Detector(truth), data, verbose=False)
    import wandb

    wandb.finish()
    wandb.teardown()  # its own process may still be writing
    (folder,) = Path("wandb").glob("offline-run-*")
    _, history, _, _ = read(next(folder.glob("*.wandb")))
    assert history["val_detections.count"] == 3
    entries, masks = history["val_detections.all_boxes"], history["val_detections.all_masks"]
    for index in range(3):
        target = data.dataset("val")[index]["target"]
        assert set(entries[index]) == set(masks[index]) == {"predictions", "ground_truth"}
        found = json.loads((folder / "files" / entries[index]["predictions"]["path"]).read_text())["box_data"]
        true = json.loads((folder / "files" / entries[index]["ground_truth"]["path"]).read_text())["box_data"]
        corners = [[box["position"][k] for k in ("minX", "minY", "maxX", "maxY")] for box in true]
        assert corners == target["boxes"].tolist()
        assert [box["class_id"] for box in true] == target["labels"].tolist()
        assert {box["domain"] for box in found + true} == {"pixel"}
        assert found[0]["scores"]["score"] == pytest.approx(0.9)
        assert found[0]["box_caption"] == f"{data.class_names[found[0]['class_id'] - 1]} 0.90"
        mask = np.array(Image.open(folder / "files" / masks[index]["predictions"]["path"]))
        assert set(np.unique(mask)) == {0, *target["labels"].tolist()}


def test_wandb_images_of_a_step_have_one_size() -> None:
    wide, high = (torch.zeros(3, *size, dtype=torch.uint8) for size in ((10, 30), (20, 10)))
    target = {**objects((1, 2, 9, 9)), "masks": torch.ones(1, 20, 10, dtype=torch.bool)}
    shown = for_wandb([(wide, objects(), objects(scores=[])), (high, target, objects(scores=[]))], NAMES)
    assert {image.shape for image in shown["images"]} == {(20, 30, 3)}
    assert shown["masks"][0] == {}
    assert shown["masks"][1]["ground_truth"]["mask_data"].sum() == 200
    assert shown["boxes"][0]["predictions"]["box_data"] == []
    assert shown["boxes"][1]["ground_truth"]["class_labels"] == {1: "cat", 2: "dog", 3: "bird"}


# --- the writer -------------------------------------------------------------------------------------------------------


def predict(detect: Detect, data: ShapesDetection, **kwargs: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return the contents of detections.json and results.json."""
    trainer(DetectionWriter(**kwargs)).predict(Detector(detect), data, return_predictions=False)
    return tuple(json.loads(Path(f"predictions/{name}.json").read_text()) for name in ("detections", "results"))


def photos(**sizes: tuple[int, int]) -> str:
    Path("photos").mkdir()
    for name, size in sizes.items():
        Image.effect_noise(size, 80).convert("RGB").save(f"photos/{name.replace('_', '.')}")
    return "photos"


def test_predictions_use_pixels_of_the_original_files() -> None:
    folder = photos(dog_png=(200, 120), cat_jpg=(30, 40))
    data_set, results = predict(one_box, shapes(predict=folder, max_side=64))
    assert data_set["images"] == [
        {"id": 0, "file_name": "cat.jpg", "width": 30, "height": 40},
        {"id": 1, "file_name": "dog.png", "width": 200, "height": 120},
    ]
    cat, dog = data_set["annotations"]
    assert (cat["bbox"], dog["bbox"]) == ([0, 0, 15, 10], pytest.approx([0, 0, 100, 30], abs=0.1))
    assert [(one["image_id"], one["category_id"], one["iscrowd"]) for one in (cat, dog)] == [(0, 2, 0), (1, 2, 0)]
    assert dog["segmentation"]["size"] == [120, 200]
    assert dog["area"] == pytest.approx(100 * 30, rel=0.08)  # the network saw 38 rows of 120, and a mask has whole rows
    assert results[1] == {key: dog[key] for key in ("image_id", "category_id", "bbox", "score", "segmentation")}
    assert [Image.open(f"predictions/overlays/{name}.png").size for name in ("cat", "dog")] == [(210, 280), (256, 152)]


def test_files_with_same_stem_get_separate_overlays() -> None:
    data_set, _ = predict(one_box, shapes(predict=photos(dog_png=(20, 12), dog_jpg=(12, 20), cat_png=(9, 9))))
    assert [image["file_name"] for image in data_set["images"]] == ["cat.png", "dog.jpg", "dog.png"]
    written = sorted(path.name for path in Path("predictions/overlays").iterdir())
    assert written == ["cat.png", "dog_jpg.png", "dog_png.png"]


def test_images_without_files_are_numbered() -> None:
    data_set, _ = predict(one_box, shapes())
    assert [(image["id"], image["file_name"]) for image in data_set["images"]] == [
        (i, f"00000{i}.png") for i in range(5)
    ]
    assert len(list(Path("predictions/overlays").iterdir())) == 5


def test_images_without_detections_are_written() -> None:
    data_set, results = predict(nothing, shapes())
    assert (len(data_set["images"]), data_set["annotations"], results) == (5, [], [])


def test_scores_below_threshold_are_not_written() -> None:
    assert len(predict(one_box, shapes(), score_threshold=0.75)[1]) == 5
    assert predict(one_box, shapes(), score_threshold=0.76)[1] == []
    with pytest.raises(UsageError, match="overlay_threshold"):
        DetectionWriter(overlay_threshold=-1)


@pytest.mark.parametrize("pattern", [None, "frame_{}", "{}"])
def test_results_use_image_ids_of_the_json(tmp_path: Path, pattern: str | None) -> None:
    path = coco_detection(tmp_path) / "annotations/instances_val2017.json"
    content = json.loads(path.read_text())
    if pattern is not None:
        for entries, key in (("images", "id"), ("annotations", "image_id")):
            for one in content[entries]:
                one[key] = pattern.format(one[key])
        path.write_text(json.dumps(content))
    data_set, results = predict(one_box, CocoDetection(root=str(tmp_path), num_workers=0))
    names = {image["id"]: image["file_name"] for image in content["images"]}
    assert {image["id"]: image["file_name"] for image in data_set["images"]} == names
    assert sorted(one["image_id"] for one in results) == sorted(names)
    assert {one["category_id"] for one in results} == {7}  # the dog's


def test_results_use_category_ids_of_dataset() -> None:
    data = shapes()
    data.category_ids = (1, 3, 7, 44, 90)
    data_set, results = predict(one_box, data)
    assert [one["id"] for one in data_set["categories"]] == [1, 3, 7, 44, 90]
    assert {one["category_id"] for one in results} == {3}


@pytest.mark.parametrize("library", ["faster_coco_eval", "pycocotools.coco"])
def test_coco_libraries_read_written_files(library: str) -> None:
    coco = pytest.importorskip(library).COCO
    data = shapes(masks=True)
    predict(truth, data)
    read_back = coco("predictions/detections.json")
    target = data.dataset("test")[3]["target"]
    annotations = read_back.loadAnns(read_back.getAnnIds(imgIds=[3]))
    corners = torch.tensor([one["bbox"] for one in annotations])
    corners[:, 2:] += corners[:, :2]
    assert torch.equal(corners, target["boxes"])
    masks = np.stack([read_back.annToMask(one) for one in annotations])
    assert np.array_equal(masks, target["masks"].numpy())
    assert len(read_back.loadRes("predictions/results.json").getAnnIds()) == len(read_back.getAnnIds())


def test_written_ground_truth_has_ap_1_against_itself() -> None:
    from faster_coco_eval import COCO, COCOeval_faster

    predict(truth, shapes(masks=True))
    true = COCO("predictions/detections.json")
    for kind in ("bbox", "segm"):
        scores = COCOeval_faster(true, true.loadRes("predictions/results.json"), kind)
        scores.run()
        assert scores.stats[0] == pytest.approx(1)


def test_mask_is_rescaled_to_original_size() -> None:
    found = {**objects((2, 1, 4, 2), scores=[0.5]), "masks": torch.zeros(1, 3, 6, dtype=torch.bool)}
    found["masks"][0, 1, 2:4] = True
    (annotation,) = coco_annotations(found, (3, 6), (30, 60), [17])
    assert (annotation["bbox"], annotation["area"], annotation["category_id"]) == ([20, 10, 20, 10], 200, 17)


@pytest.mark.parametrize("size", [(13, 29), (5, 7), (3, 4), (40, 7)])
@pytest.mark.parametrize("share", [0, 0.4, 1])
def test_run_lengths_match_pycocotools(size: tuple[int, int], share: float) -> None:
    mask = torch.rand(5, 7, generator=torch.Generator().manual_seed(0)) < share
    runs = run_lengths(mask.numpy(), size)
    enlarged = F.interpolate(mask[None, None].to(torch.uint8), size, mode="nearest-exact")[0, 0].numpy()
    assert compress_runs(runs, size)["counts"] == coco_mask.encode(np.asfortranarray(enlarged))["counts"].decode()
    assert sum(runs[1::2]) == enlarged.sum()


def test_predict_deletes_earlier_overlays() -> None:
    predict(one_box, shapes())
    predict(one_box, shapes(predict=photos(dog_png=(20, 12))))
    assert [path.name for path in Path("predictions/overlays").iterdir()] == ["dog.png"]


def test_gather_rows_joins_all_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    def gather(into: list[Any], rows: list[Any]) -> None:
        into[:] = [rows, ["from the other rank"]]

    monkeypatch.setattr(torch.distributed, "all_gather_object", gather)
    two, one = (type("Ranks", (), {"world_size": size}) for size in (2, 1))
    assert gather_rows(two, ["mine"]) == ["mine", "from the other rank"]
    assert gather_rows(one, ["mine"]) == ["mine"]


def test_model_without_detections_raises() -> None:
    class Segments(Detector):
        def predict_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
            return torch.zeros(2, 8, 8)

    with pytest.raises(UsageError, match="Segments must return detections.*got Tensor"):
        trainer(DetectionWriter()).predict(Segments(truth), shapes())
