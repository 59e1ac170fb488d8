"""ShapesCaptions: captions describe their images, and training excludes the held-out combinations."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from darkroom.datamodules.shapes.captions import FORMS, HELD_OUT, DescribedScenes, ShapesCaptions
from darkroom.datamodules.shapes.scenes import COLOURS, KINDS, SIZES
from darkroom.errors import UsageError
from tests.contracts.datamodule import DataModuleContract


class TestShapesCaptions(DataModuleContract):
    def build(self, tmp_path: Path, **kwargs: Any) -> ShapesCaptions:
        return ShapesCaptions(train_size=8, val_size=4, test_size=4, side=16, forms=list(FORMS), **kwargs)

    def test_attributes_are_consistent(self, data: ShapesCaptions) -> None:
        assert data.num_classes == len(data.class_names) == 0
        assert data.image_shape == (3, 16, 16)
        assert data.value_range == (-1.0, 1.0)

    def test_batches_contain_captions_and_attributes(self, data: ShapesCaptions) -> None:
        batch = next(iter(data.val_dataloader()))
        assert [type(caption) for caption in batch["caption"]] == [str, str]
        assert batch["attributes"].shape == (2, len(data.attribute_names)) == (2, len(data.attribute_sizes))
        assert (batch["attributes"] < torch.tensor(data.attribute_sizes)).all()
        assert batch["held_out"].dtype == torch.bool
        assert data.dataset("val")[1]["caption"] == data.dataset("val").__getitems__([0, 1])["caption"][1]


def describe(
    form: str, split: str = "test", count: int = 600, **kwargs: Any
) -> tuple[DescribedScenes, dict[str, np.ndarray]]:
    """Return scenes and the captioned attributes by name."""
    describe = ShapesCaptions(forms=[form], **kwargs).dataset(split).describe(range(count))
    return describe, dict(zip(ShapesCaptions.attribute_names, describe.stated.T, strict=True))


def test_scenes_are_bit_identical_on_every_machine() -> None:
    batch = ShapesCaptions(forms=list(FORMS)).dataset("train").__getitems__(range(256))
    content = batch["image"].contiguous().numpy().tobytes() + "\n".join(batch["caption"]).encode()
    assert hashlib.sha256(content).hexdigest() == "cf956bfd6b1adc520c466b3042a023b264f728f158b1d4f6f9af5f759ebff6ce"


@pytest.mark.parametrize("form", FORMS)
def test_scenes_do_not_depend_on_image_size(form: str) -> None:
    small, large = (describe(form, side=side)[0] for side in (16, 32))
    assert small.captions == large.captions
    assert np.array_equal(small.truth, large.truth)
    for name in ("x", "y", "radius"):
        assert np.allclose(getattr(small.scenes, name) * 2, getattr(large.scenes, name))


@pytest.mark.parametrize("form", FORMS)
def test_objects_are_inside_image_and_do_not_overlap(form: str) -> None:
    scenes = describe(form, side=16)[0].scenes
    for x in (scenes.x, scenes.y):
        assert (np.minimum(x, 16 - x) >= scenes.radius)[scenes.present].all()
    for a in range(4):
        for b in range(a):
            both = scenes.present[:, a] & scenes.present[:, b]
            distance = np.hypot(scenes.x[:, a] - scenes.x[:, b], scenes.y[:, a] - scenes.y[:, b])
            assert (distance > scenes.radius[:, a] + scenes.radius[:, b])[both].all()
    assert scenes.radius[scenes.present].min() > 2  # pixels of 16, so that the shape is visible


@pytest.mark.parametrize("form", FORMS)
def test_vocabulary_is_complete(form: str) -> None:
    captions = describe(form, count=4000)[0].captions
    words = {word for caption in captions for word in caption.split()}
    assert ShapesCaptions(forms=[form]).words == sorted(words)


def test_half_of_object_captions_mention_size() -> None:
    it, said = describe("object")
    for index, caption in enumerate(it.captions):
        size = [] if said["size"][index] < 0 else [SIZES[it.scenes.size[index, 0]]]
        names = [*size, list(COLOURS)[it.scenes.colour[index, 0]], KINDS[it.scenes.kind[index, 0]]]
        assert caption.split() == ["an" if names[0] == "orange" else "a", *names]
    assert 0.4 < (said["size"] < 0).mean() < 0.6
    assert set(it.truth[:, 3]) == {0, 1, 2}


def test_place_captions_match_clear_positions() -> None:
    it, said = describe("place")
    places = {"left": ("x", -1), "right": ("x", 1), "upper": ("y", -1), "top": ("y", -1)}
    places |= {"lower": ("y", 1), "bottom": ("y", 1)}
    for index, caption in enumerate(it.captions):
        words = set(caption.split())
        for word in words & set(places):
            axis, sign = places[word]
            assert sign * (getattr(it.scenes, axis)[index, 0] / 32 - 0.5) > 0.099
        middle = np.abs([it.scenes.x[index, 0] / 32 - 0.5, it.scenes.y[index, 0] / 32 - 0.5]).max() < 0.031
        assert ("middle" in words) == middle
        assert (said["column"][index] >= 0) == bool(words & {"left", "right", "middle"})
        assert (said["row"][index] >= 0) == bool(words & {"upper", "lower", "top", "bottom", "middle"})


def test_relation_captions_match_scene_in_both_directions() -> None:
    it, said = describe("relation")
    opposite = {"left of": "right of", "above": "below"}
    firsts = []
    for index, caption in enumerate(it.captions):
        relation = next(word for pair in opposite.items() for word in pair if word in caption)
        first, second = caption.split(f" {relation} ")
        turned = relation in opposite.values()
        for phrase, slot in ((first, turned), (second, not turned)):
            kind, colour = (getattr(it.scenes, name)[index, int(slot)] for name in ("kind", "colour"))
            assert phrase.endswith(f"{list(COLOURS)[colour]} {KINDS[kind]}")
        dx, dy = (axis[index, 1] - axis[index, 0] for axis in (it.scenes.x, it.scenes.y))
        along, across = (dy, dx) if said["axis"][index] else (dx, dy)
        assert along > 0  # slot 0 is the left or upper one
        assert abs(across) <= 0.61 * along
        assert said["axis"][index] == (relation in ("above", "below"))
        firsts.append(turned)
    assert 0.4 < np.mean(firsts) < 0.6


def test_count_captions_match_scene() -> None:
    it, said = describe("count")
    for index, caption in enumerate(it.captions):
        number = it.scenes.present[index].sum()
        assert caption.split()[0] == {2: "two", 3: "three", 4: "four"}[number]
        assert said["count"][index] == number - 1
        assert len({*it.scenes.kind[index]}) == len({*it.scenes.colour[index]}) == 1
        kind = KINDS[it.scenes.kind[index, 0]]
        assert caption.endswith("crosses" if kind == "cross" else f"{kind}s")


@pytest.mark.parametrize("form", FORMS)
def test_training_excludes_held_out_combinations(form: str) -> None:
    assert set(HELD_OUT) == set(range(len(KINDS)))  # some colour of each kind
    for split, lowest, highest in (("train", 0, 0), ("val", 0.12, 0.45), ("test", 0.12, 0.45)):
        it, _ = describe(form, split)
        out = ((it.scenes.kind == HELD_OUT[it.scenes.colour]) & it.scenes.present).any(1)
        assert np.array_equal(out, it.held_out)
        assert lowest <= out.mean() <= highest
    judging = ShapesCaptions(forms=[form]).judging_dataset(600).describe(range(600))
    for everything in (judging, describe(form, "train", held_out=False)[0]):
        out = ((everything.scenes.kind == HELD_OUT[everything.scenes.colour]) & everything.scenes.present).any(1)
        assert out.mean() > 0.1
        assert not everything.held_out.any()  # nothing is held out here


def test_judging_dataset_has_complete_attributes_and_own_scenes() -> None:
    data = ShapesCaptions(forms=["object"])
    judging, test = (d.__getitems__(range(300)) for d in (data.judging_dataset(300), data.dataset("test")))
    assert set(judging["attributes"][:, 0].tolist()) == {0, 1, 2, 3}  # counts that occur in no caption
    alone = judging["attributes"][:, 0] == 0
    assert (judging["attributes"][alone, 3] >= 0).all()
    assert (test["attributes"][:, 3] < 0).any()
    seen = {image.numpy().tobytes() for image in judging["image"]}
    assert not seen & {image.numpy().tobytes() for image in test["image"]}


def test_invalid_settings_raise() -> None:
    for wrong, message in (
        ({"side": 8}, "data.side must be at least 16 pixels for shapes, got 8"),
        ({"forms": []}, r"data.forms must be distinct and among .* got \[\]"),
        ({"forms": ["object", "object"]}, "data.forms must be distinct"),
        ({"forms": ["object", "place"], "zoom": 2.0}, "data.zoom must be from 1 to 1.5 with forms .* got 2.0"),
    ):
        with pytest.raises(UsageError, match=message):
            ShapesCaptions(**wrong)


def test_exchanged_captions_are_those_of_exchanged_objects() -> None:
    described, _ = describe("relation", count=200)
    names = list(ShapesCaptions.attribute_names)
    for row, (caption, exchanged) in enumerate(zip(described.captions, described.exchanged, strict=True)):
        one, other = (
            {name: described.stated[row][names.index(name + end)] for name in ("kind", "colour", "size")}
            for end in ("", "_2")
        )
        assert (exchanged == "") == (one == other)
        if exchanged:
            relation = next(words for words in (" left of ", " right of ", " above ", " below ") if words in caption)
            assert exchanged == relation.join(reversed(caption.split(relation)))
    assert all(
        exchanged == "" for form in ("object", "place", "count") for exchanged in describe(form, count=5)[0].exchanged
    )
