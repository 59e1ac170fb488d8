"""Attribute judge of prompt accuracy: training, caching and errors."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from darkroom.errors import UsageError
from darkroom.lightning_modules.metrics import attribute_judge
from darkroom.lightning_modules.metrics.attribute_judge import AttributeJudge, load_or_train_judge, match_attributes


class Patches:
    """Replacement of a datamodule: a bright patch on the left or right (0 or 1), in one of three channels."""

    image_shape, attribute_names, attribute_sizes = (3, 8, 8), ("side", "channel", "nothing"), (2, 3, 2)

    def judging_dataset(self, length: int) -> "Patches":
        self.length = length
        return self

    def __getitems__(self, indices: range) -> dict[str, Tensor]:
        index = torch.as_tensor(indices)
        side, channel = index % 2, index // 2 % 3
        images = torch.full((len(index), 3, 8, 8), 20, dtype=torch.uint8)
        for image, (s, c) in zip(images, torch.stack([side, channel], 1).tolist(), strict=True):
            image[c, 2:6, 4 * s : 4 * s + 4] = 230
        side = torch.where(index % 7 == 0, -1, side)
        return {"image": images, "attributes": torch.stack([side, channel, torch.full_like(side, -1)], 1)}


@pytest.mark.parametrize(("channels", "height", "width"), [(3, 16, 16), (1, 24, 24), (3, 32, 20), (3, 64, 64)])
def test_any_image_size_is_supported(channels: int, height: int, width: int) -> None:
    judge = AttributeJudge(channels, max(height, width), (2, 5)).eval()
    images = torch.randint(0, 256, (3, channels, height, width), dtype=torch.uint8)
    assert [logits.shape for logits in judge(images)] == [(3, 2), (3, 5)]
    assert judge.features(images).shape == (3, judge.num_features)
    assert judge.attributes(images).shape == (3, 2)


def test_judge_learns_attributes_and_is_cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attribute_judge, "_SEEN", 4000)
    monkeypatch.setattr(attribute_judge, "_HELD_OUT", 200)
    before = torch.get_rng_state()
    judge, accuracy = load_or_train_judge(Patches(), tmp_path)
    assert torch.equal(before, torch.get_rng_state())
    assert set(accuracy) == {"all", "side", "channel"}  # an attribute without labels has no accuracy
    assert min(accuracy.values()) > 0.95
    batch = Patches().__getitems__(range(50_000, 50_100))
    assert match_attributes(judge.attributes(batch["image"]), batch["attributes"]).float().mean() > 0.95
    monkeypatch.setattr(attribute_judge, "_train", None)
    again, kept = load_or_train_judge(Patches(), tmp_path)
    assert kept == accuracy
    assert all(torch.equal(a, b) for a, b in zip(judge.parameters(), again.parameters(), strict=True))
    assert not judge.training
    assert not any(weight.requires_grad for weight in judge.parameters())


def test_unstated_attributes_match() -> None:
    seen, said = torch.tensor([[1, 2, 0], [1, 2, 0]]), torch.tensor([[1, -1, 0], [0, -1, -1]])
    assert match_attributes(seen, said).tolist() == [[True, True, True], [False, True, True]]


def test_data_without_attributes_raise(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no attributes.*scores.accuracy to false.*features to mobilenet or inception"):
        load_or_train_judge(object(), tmp_path)
