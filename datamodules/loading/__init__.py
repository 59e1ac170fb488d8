"""Reproducible order, augmentation and position of the data."""

from darkroom.datamodules.loading.loader import ResumableLoader, leave_signals_to_training
from darkroom.datamodules.loading.order import Key, SeededSampler, ShardSampler
from darkroom.datamodules.loading.samples import (
    AUGMENT_KEYS,
    BAD_SAMPLES,
    KeyedDataset,
    KeyedSamples,
    as_tv_tensors,
    collate,
    keyed_rng,
    require_uint8,
    split_key,
)

__all__ = [
    "AUGMENT_KEYS",
    "BAD_SAMPLES",
    "Key",
    "KeyedDataset",
    "KeyedSamples",
    "ResumableLoader",
    "SeededSampler",
    "ShardSampler",
    "as_tv_tensors",
    "collate",
    "keyed_rng",
    "leave_signals_to_training",
    "require_uint8",
    "split_key",
]
