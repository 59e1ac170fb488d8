"""Images that a report may show: the right samples, in bounded memory."""

import random

import pytest

from darkroom.callbacks.results.image_keeper import ImageKeeper, share_budget


def fill(keeper: ImageKeeper, scores: dict[int, dict[tuple[str | int, ...], float]], order: list[int]) -> int:
    """Offer samples in an order; return the largest number of images in memory."""
    most = 0
    for sample in order:
        keeper.offer({sample: scores[sample]}, lambda number: {"": str(number).encode()})
        most = max(most, len(keeper.images))
    return most


@pytest.mark.parametrize("seed", range(5))
def test_highest_scores_are_kept_in_any_order(seed: int) -> None:
    rng = random.Random(seed)
    scores = {
        sample: {("worst",): rng.choice((1.0, 2.0, 3.0)), ("cell", sample % 3): rng.random()} for sample in range(90)
    }
    order = list(scores)
    rng.shuffle(order)
    keeper = ImageKeeper({"worst": 5, "cell": 2})
    most = fill(keeper, scores, order)
    assert most <= 5 + 3 * 2
    expected = sorted(scores, key=lambda sample: (-scores[sample]["worst",], sample))[:5]
    assert keeper.ranked(("worst",)) == expected
    kept = set(expected)
    for group in (("cell", 0), ("cell", 1), ("cell", 2)):
        members = sorted((one for one in scores if group in scores[one]), key=lambda one: -scores[one][group])[:2]
        assert keeper.ranked(group) == members
        kept |= set(members)
    assert keeper.images == {sample: {"": str(sample).encode()} for sample in kept}


def test_files_are_made_only_of_samples_that_remain_after_their_batch() -> None:
    keeper, encoded = ImageKeeper({"worst": 2}), []
    keeper.offer(
        {number: {("worst",): float(number)} for number in range(9)}, lambda number: encoded.append(number) or {}
    )
    assert encoded == [7, 8] == sorted(keeper.images)


def test_sample_stays_while_another_group_keeps_it() -> None:
    keeper = ImageKeeper({"worst": 1, "cell": 1})
    keeper.offer({0: {("worst",): 1.0, ("cell", 0): 1.0}}, lambda _: {"": b"0"})
    keeper.offer({1: {("worst",): 2.0}}, lambda _: {"": b"1"})
    assert keeper.images.keys() == {0, 1}
    keeper.offer({2: {("cell", 0): 2.0}}, lambda _: {"": b"2"})
    assert keeper.images.keys() == {1, 2}


def test_images_are_encoded_only_for_kept_samples() -> None:
    keeper, encoded = ImageKeeper({"worst": 2, "none": 0}), []
    for sample in range(10):
        scores = {("worst",): -sample, ("none", 1): 9.0, ("other",): 9.0}
        keeper.offer({sample: scores}, lambda _: encoded.append(1) or {})
    assert len(encoded) == 2


def test_score_that_is_not_a_number_is_the_highest() -> None:
    keeper = ImageKeeper({"worst": 2})
    for sample, score in enumerate((1.0, float("nan"), 3.0, float("nan"), 2.0)):
        keeper.offer({sample: {("worst",): score}}, lambda _: {})
    assert keeper.ranked(("worst",)) == [1, 3]


def test_many_groups_share_the_budget() -> None:
    assert [share_budget(groups, 4) for groups in (0, 6, 128, 129, 512, 513)] == [4, 4, 4, 3, 1, 0]
