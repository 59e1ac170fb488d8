"""Processing of captions: words, cells, random captions and safe flips."""

import torch

from darkroom.datamodules.captions.caption_text import (
    CaptionSafeFlip,
    RandomCaption,
    captions_in,
    most_frequent_words,
    words_of,
)
from darkroom.datamodules.loading import KeyedDataset, keyed_rng


def test_words_are_lower_case_without_punctuation() -> None:
    assert words_of("A red-hot fire, 2nd try.") == ["a", "red", "hot", "fire", "2nd", "try"]
    assert most_frequent_words(["b a c", "C b", "b"], 2) == ["b", "c"]
    assert most_frequent_words(["b a c"], None) == ["a", "b", "c"]


def test_cells_contain_zero_or_more_captions() -> None:
    assert captions_in(None) == captions_in(" ") == captions_in([]) == []
    assert captions_in(" a \n circle") == ["a circle"]
    assert captions_in(["a", "", "b"]) == ["a", "b"]


def test_random_caption_depends_on_seed_epoch_and_index() -> None:
    sample = {"image": torch.zeros(3, 4, 4, dtype=torch.uint8), "caption": "a", "captions": ("a", "b", "c")}
    data = KeyedDataset([sample] * 30, RandomCaption(), seed=3)
    captions = [data[1, index]["caption"] for index in range(30)]
    assert set(captions) == {"a", "b", "c"}
    assert captions == [data[1, index]["caption"] for index in range(30)]
    assert captions != [data[2, index]["caption"] for index in range(30)]
    assert data[0, 0].keys() == {"image", "caption"}


def test_flip_skips_captions_that_mention_a_side() -> None:
    ramp = torch.arange(16, dtype=torch.uint8).expand(3, 4, 16)
    for caption, share in {
        "a cat on a mat": 0.5,
        "A leftmost cat": 0,
        "to the Right of": 0,
        "a bright cleft": 0.5,
    }.items():
        mirrored = 0
        for key in range(200):
            with keyed_rng(key):
                mirrored += not torch.equal(CaptionSafeFlip()({"image": ramp, "caption": caption})["image"], ramp)
        assert abs(mirrored / 200 - share) < 0.1 * (share > 0) + 1e-9
