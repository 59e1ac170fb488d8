"""LearnedTextEncoder, and the embedding cache of frozen text encoders."""

import copy
import errno
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from darkroom.errors import UsageError
from darkroom.lightning_modules.diffusion.text import LearnedTextEncoder
from darkroom.lightning_modules.diffusion.text.cache import EmbeddingCache, Embeddings
from darkroom.lightning_modules.diffusion.text.encoder import pad_rows
from tests.fakes.ranks import on_two_ranks

KNOWN = ["a", "above", "below", "blue", "circle", "left", "of", "red", "right", "square"]
LEFT, RIGHT = "a red circle left of a blue square", "a blue square left of a red circle"


def words(**options: Any) -> LearnedTextEncoder:
    torch.manual_seed(0)
    return LearnedTextEncoder(**{"words": KNOWN, "dim": 16, "heads": 2, **options})


# --- LearnedTextEncoder -----------------------------------------------------------------------------------------------


def test_words_become_tokens_padded_with_zeros() -> None:
    tokens, mask = words()([LEFT, "Red, circle!", ""])
    assert tokens.shape == (3, 8, 16)
    assert tokens.dtype == torch.float32
    assert mask.dtype == torch.bool
    assert mask.sum(1).tolist() == [8, 2, 0]
    assert tokens[~mask].eq(0).all()
    assert tokens[mask].ne(0).any(1).all()


def test_empty_captions_have_one_masked_position() -> None:
    tokens, mask = words()(["", "..."])
    assert tokens.shape == (2, 1, 16)
    assert not mask.any()
    assert not tokens.any()


@pytest.mark.parametrize("training", [True, False])
def test_caption_does_not_depend_on_batch(training: bool) -> None:
    encoder = words().train(training)
    alone = encoder([LEFT]).tokens[0]
    beside = encoder(["", LEFT, f"{LEFT} of a red circle"]).tokens[1]
    assert torch.allclose(beside[:8], alone, atol=1e-5)
    with torch.inference_mode():
        assert torch.allclose(encoder([LEFT]).tokens[0], alone, atol=1e-5)


def test_case_and_punctuation_are_ignored() -> None:
    first, second = words()(["A red circle.", "a RED, circle"]).tokens
    assert torch.equal(first, second)


def test_tokens_depend_on_word_order() -> None:
    """Check that a token depends on the other words: "circle" differs next to "blue"."""
    encoder = words()
    tokens = encoder([LEFT, RIGHT, "a blue circle left of a red square"]).tokens
    assert not torch.allclose(tokens[0].sum(0), tokens[1].sum(0), atol=1e-3)
    assert not torch.allclose(tokens[0, 2], tokens[2, 2], atol=1e-3)
    by_themselves = words(layers=0)([LEFT, "a blue circle left of a red square"]).tokens
    assert torch.equal(by_themselves[0, 2], by_themselves[1, 2])  # without layers tokens are independent


def test_encoder_learns_attribute_binding() -> None:
    """Train the mean token to predict the colour of the circle, which a bag of words cannot."""
    captions, colours = [], []
    for relation in ("left of", "right of", "above", "below"):
        for first, second in ((1, 0), (0, 1)):
            named = ("red", "blue")
            captions.append(f"a {named[first]} circle {relation} a {named[second]} square")
            captions.append(f"a {named[second]} square {relation} a {named[first]} circle")
            colours += [first, first]
    encoder, head, target = words(), nn.Linear(16, 2), torch.tensor(colours)
    optimizer = torch.optim.AdamW([*encoder.parameters(), *head.parameters()], lr=3e-3)
    for _ in range(80):
        tokens, mask = encoder(captions)
        embeddings = head(tokens.sum(1) / mask.sum(1, keepdim=True))
        optimizer.zero_grad()
        nn.functional.cross_entropy(embeddings, target).backward()
        optimizer.step()
    assert embeddings.argmax(1).eq(target).all()


def test_padding_gives_zero_gradient_without_nan() -> None:
    encoder = words()
    encoder([LEFT, ""]).tokens.square().sum().backward()
    assert all(
        parameter.grad.isfinite().all() for parameter in encoder.parameters()
    )  # all parameters are used, as DDP requires
    assert encoder.embedding.weight.grad[0].eq(0).all()  # there was no unknown word


def test_unknown_words_share_an_embedding_and_warn_once() -> None:
    encoder = words()
    with pytest.warns(UserWarning, match="words outside model.text.words.*: yellow, zebra"):
        first = encoder(["a zebra circle", "a yellow circle"]).tokens
    assert torch.equal(first[0], first[1])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        encoder(["a giraffe"])


def test_copies_share_warnings() -> None:
    encoder = words(max_length=3)
    twin = copy.deepcopy(encoder)  # as for EMA weights
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        encoder([f"zebra {LEFT}"])
        twin([f"giraffe {RIGHT}"])
    assert len(warned) == 2  # one for an unknown word, one for a truncated caption


def test_long_captions_are_truncated_with_one_warning() -> None:
    encoder = words(max_length=3)
    with pytest.warns(UserWarning, match="to 3 tokens.*has 8.*a red circle left"):
        tokens, mask = encoder([LEFT, "a red circle"])
    assert torch.equal(tokens[0], tokens[1])
    assert mask.shape == (2, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        encoder([RIGHT])
    assert encoder.tokens_of(LEFT) == ["a", "red", "circle"]


def test_tokens_of_and_words_of_return_words() -> None:
    encoder = words()
    assert encoder.tokens_of("A red, zebra!") == ["a", "red", "zebra"]
    assert encoder.words_of("A red, zebra!") == [("a", [0]), ("red", [1]), ("zebra", [2])]
    assert encoder.tokens_of("") == encoder.words_of("") == []
    assert encoder.trains
    assert encoder.linked_arguments == ("words",)


@pytest.mark.parametrize("training", [True, False])
def test_bfloat16_tokens_are_close_to_float32(training: bool) -> None:
    encoder = words().train(training)
    exact = encoder([LEFT, ""]).tokens
    with torch.autocast("cpu", torch.bfloat16):
        mixed = encoder([LEFT, ""]).tokens
    true = encoder.bfloat16()([LEFT, ""]).tokens
    for tokens in (mixed, true):
        assert tokens.dtype == torch.float32
        assert torch.allclose(tokens, exact, atol=0.1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"words": None}, r"model.text.words is empty"),
        ({"words": []}, r"model.text.words is empty"),
        ({"words": ["light blue"]}, r"model.text.words must be single words .*got 'light blue'"),
        ({"words": ["Red"]}, r"model.text.words must be single words .*got 'Red'"),
        ({"words": ["red", "red"]}, r"model.text.words must be different words, got twice: red"),
        ({"heads": 3}, r"model.text.heads must divide model.text.dim, 16, got 3"),
        ({"layers": -1}, r"model.text.layers must be at least 0, got -1"),
        ({"max_length": 0}, r"model.text.max_length must be at least 1, got 0"),
    ],
)
def test_invalid_arguments_raise(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        words(**options)


def test_pad_rows_pads_and_masks() -> None:
    values, mask = pad_rows([torch.ones(2, 3), torch.ones(0, 3)])
    assert values.tolist() == [[[1, 1, 1], [1, 1, 1]], [[0, 0, 0], [0, 0, 0]]]
    assert mask.tolist() == [[True, True], [False, False]]


# --- the cache --------------------------------------------------------------------------------------------------------


def embeddings(value: float, length: int = 3) -> Embeddings:
    return Embeddings(np.full((length, 4), value, np.float16), length + 1)


def same(got: Embeddings | None, put: Embeddings) -> bool:
    return got is not None and np.array_equal(got.rows, put.rows) and got.length == put.length


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_cache_is_shared_between_processes(tmp_path: Path) -> None:
    first, second = EmbeddingCache(tmp_path, 4), EmbeddingCache(tmp_path, 4)
    assert first.get("red") is None
    first.put("red", embeddings(0.5))
    first.put("", embeddings(0.25, 1))
    first.put("rot \ud83d ü\n/../", embeddings(2))  # any text: half an emoji, a newline, slashes
    for cache in (first, second):
        assert same(cache.get("red"), embeddings(0.5))
        assert same(cache.get(""), embeddings(0.25, 1))
        assert same(cache.get("rot \ud83d ü\n/../"), embeddings(2))
    assert len(files(tmp_path)) == 3


@pytest.mark.parametrize(
    "harm", [lambda b: b"", lambda b: b[:-8], lambda b: b[:20] + b"\7" + b[21:], lambda b: b + b"0"]
)
def test_damaged_files_count_as_missing(tmp_path: Path, harm: Any) -> None:
    EmbeddingCache(tmp_path, 4).put("red", embeddings(1))
    (path,) = files(tmp_path)
    path.write_bytes(harm(path.read_bytes()))
    cache = EmbeddingCache(tmp_path, 4)
    assert cache.get("red") is None
    cache.put("red", embeddings(1))
    assert same(EmbeddingCache(tmp_path, 4).get("red"), embeddings(1))


def test_memory_keeps_most_recently_used(tmp_path: Path) -> None:
    cache = EmbeddingCache(tmp_path, 4, memory=3 * embeddings(0).rows.nbytes)
    for value in range(3):
        cache.put(str(value), embeddings(value))
    cache.get("0")
    cache.put("3", embeddings(3))  # "1" is the least recently used
    for path in files(tmp_path):
        path.unlink()
    assert [cache.get(str(value)) is not None for value in range(4)] == [True, False, True, True]


def test_memory_counts_replaced_entries_once(tmp_path: Path) -> None:
    cache = EmbeddingCache(tmp_path, 4, memory=2 * embeddings(0).rows.nbytes)
    for _ in range(5):
        cache.put("0", embeddings(0))
    cache.put("1", embeddings(1))
    for path in files(tmp_path):
        path.unlink()
    assert cache.get("0") is not None


def test_ranks_share_cache_folder(tmp_path: Path) -> None:
    def work(rank: int, folder: Path) -> list[float]:
        cache = EmbeddingCache(folder / "cache", 4, memory=0)
        for turn in range(40):
            cache.put(str(turn % 4), embeddings(turn % 4))
        return [float(cache.get(str(value)).rows.mean()) for value in range(4)]

    assert on_two_ranks(work, tmp_path) == [[0, 1, 2, 3]] * 2
    assert len(files(tmp_path / "cache")) == 4  # no partial files


def test_unwritable_folder_warns_once(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    cache = EmbeddingCache(tmp_path / "file" / "t5", 4)
    with pytest.warns(UserWarning, match=r"cannot be written to .*file/t5.*model.text.cache_dir"):
        cache.put("red", embeddings(1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cache.put("blue", embeddings(2))
    assert same(cache.get("red"), embeddings(1))
    assert same(cache.get("blue"), embeddings(2))


def test_full_disk_leaves_no_partial_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = Path.write_bytes

    def full(path: Path, data: bytes) -> None:
        write(path, data[:9])
        raise OSError(errno.ENOSPC, "No space left on device")

    cache = EmbeddingCache(tmp_path, 4)
    cache.put("red", embeddings(1))
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.warns(UserWarning, match="No space left"):
        cache.put("blue", embeddings(2))
    assert len(files(tmp_path)) == 1
    assert same(EmbeddingCache(tmp_path, 4).get("red"), embeddings(1))


def test_memory_cache_writes_no_files() -> None:
    cache = EmbeddingCache(None, 4, memory=embeddings(0).rows.nbytes)
    cache.put("red", embeddings(1))
    assert same(cache.get("red"), embeddings(1))
    cache.put("blue", embeddings(2))
    assert cache.get("red") is None
    assert not files(Path())
