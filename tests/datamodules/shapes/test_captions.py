"""ShapesCaptions: every caption is true of its image, and training never shows what is held out."""

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

    def test_states_its_facts(self, data: ShapesCaptions) -> None:
        assert data.num_classes == len(data.class_names) == 0
        assert data.image_shape == (3, 16, 16)
        assert data.value_range == (-1.0, 1.0)

    def test_batches_have_sentences_and_what_they_say(self, data: ShapesCaptions) -> None:
        batch = next(iter(data.val_dataloader()))
        assert [type(caption) for caption in batch["caption"]] == [str, str]
        assert batch["attributes"].shape == (2, len(data.attribute_names)) == (2, len(data.attribute_sizes))
        assert (batch["attributes"] < torch.tensor(data.attribute_sizes)).all()
        assert batch["held_out"].dtype == torch.bool
        assert data.dataset("val")[1]["caption"] == data.dataset("val").__getitems__([0, 1])["caption"][1]


def told(
    form: str, split: str = "test", count: int = 600, **kwargs: Any
) -> tuple[DescribedScenes, dict[str, np.ndarray]]:
    """Scenes, and by name what is said of them."""
    told = ShapesCaptions(forms=[form], **kwargs).dataset(split).describe(range(count))
    return told, dict(zip(ShapesCaptions.attribute_names, told.stated.T, strict=True))


def test_same_bytes_on_every_machine() -> None:
    batch = ShapesCaptions(forms=list(FORMS)).dataset("train").__getitems__(range(256))
    drawn = batch["image"].contiguous().numpy().tobytes() + "\n".join(batch["caption"]).encode()
    assert hashlib.sha256(drawn).hexdigest() == "cf956bfd6b1adc520c466b3042a023b264f728f158b1d4f6f9af5f759ebff6ce"


@pytest.mark.parametrize("form", FORMS)
def test_scenes_are_the_same_at_every_size(form: str) -> None:
    small, large = (told(form, side=side)[0] for side in (16, 32))
    assert small.captions == large.captions
    assert np.array_equal(small.truth, large.truth)
    for name in ("x", "y", "radius"):
        assert np.allclose(getattr(small.scenes, name) * 2, getattr(large.scenes, name))


@pytest.mark.parametrize("form", FORMS)
def test_objects_lie_in_the_picture_and_apart(form: str) -> None:
    scenes = told(form, side=16)[0].scenes
    for x in (scenes.x, scenes.y):
        assert (np.minimum(x, 16 - x) >= scenes.radius)[scenes.present].all()
    for a in range(4):
        for b in range(a):
            both = scenes.present[:, a] & scenes.present[:, b]
            distance = np.hypot(scenes.x[:, a] - scenes.x[:, b], scenes.y[:, a] - scenes.y[:, b])
            assert (distance > scenes.radius[:, a] + scenes.radius[:, b])[both].all()
    assert scenes.radius[scenes.present].min() > 2  # pixels of 16: its kind can be seen


@pytest.mark.parametrize("form", FORMS)
def test_words_are_those_of_the_captions(form: str) -> None:
    captions = told(form, count=4000)[0].captions
    words = {word for caption in captions for word in caption.split()}
    assert ShapesCaptions(forms=[form]).words == sorted(words)


def test_an_object_and_in_half_of_the_captions_its_size() -> None:
    it, said = told("object")
    for index, caption in enumerate(it.captions):
        size = [] if said["size"][index] < 0 else [SIZES[it.scenes.size[index, 0]]]
        names = [*size, list(COLOURS)[it.scenes.colour[index, 0]], KINDS[it.scenes.kind[index, 0]]]
        assert caption.split() == ["an" if names[0] == "orange" else "a", *names]
    assert 0.4 < (said["size"] < 0).mean() < 0.6
    assert set(it.truth[:, 3]) == {0, 1, 2}


def test_places_are_clear() -> None:
    it, said = told("place")
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


def test_relations_are_clear_and_told_from_either_side() -> None:
    it, said = told("relation")
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


def test_counts() -> None:
    it, said = told("count")
    for index, caption in enumerate(it.captions):
        number = it.scenes.present[index].sum()
        assert caption.split()[0] == {2: "two", 3: "three", 4: "four"}[number]
        assert said["count"][index] == number - 1
        assert len({*it.scenes.kind[index]}) == len({*it.scenes.colour[index]}) == 1
        kind = KINDS[it.scenes.kind[index, 0]]
        assert caption.endswith("crosses" if kind == "cross" else f"{kind}s")


@pytest.mark.parametrize("form", FORMS)
def test_training_never_shows_what_is_held_out(form: str) -> None:
    assert set(HELD_OUT) == set(range(len(KINDS)))  # of each kind some colour
    for split, lowest, highest in (("train", 0, 0), ("val", 0.12, 0.45), ("test", 0.12, 0.45)):
        it, _ = told(form, split)
        out = ((it.scenes.kind == HELD_OUT[it.scenes.colour]) & it.scenes.present).any(1)
        assert np.array_equal(out, it.held_out)
        assert lowest <= out.mean() <= highest
    judging = ShapesCaptions(forms=[form]).judging_dataset(600).describe(range(600))
    for everything in (judging, told(form, "train", held_out=False)[0]):
        out = ((everything.scenes.kind == HELD_OUT[everything.scenes.colour]) & everything.scenes.present).any(1)
        assert out.mean() > 0.1
        assert not everything.held_out.any()  # from whoever sees these, nothing was


def test_a_judge_learns_the_whole_truth_of_scenes_of_its_own() -> None:
    data = ShapesCaptions(forms=["object"])
    judging, test = (d.__getitems__(range(300)) for d in (data.judging_dataset(300), data.dataset("test")))
    assert set(judging["attributes"][:, 0].tolist()) == {0, 1, 2, 3}  # counts that no caption has
    alone = judging["attributes"][:, 0] == 0
    assert (judging["attributes"][alone, 3] >= 0).all()
    assert (test["attributes"][:, 3] < 0).any()
    seen = {image.numpy().tobytes() for image in judging["image"]}
    assert not seen & {image.numpy().tobytes() for image in test["image"]}


def test_mistakes() -> None:
    for wrong, message in (
        ({"side": 8}, "data.side is 8; shapes need at least 16 pixels"),
        ({"forms": []}, r"data.forms is \[\]; name each form once"),
        ({"forms": ["object", "object"]}, "name each form once"),
        ({"forms": ["object", "place"], "zoom": 2.0}, "data.zoom is 2.0; with forms .* it is from 1 to 1.5"),
    ):
        with pytest.raises(UsageError, match=message):
            ShapesCaptions(**wrong)
