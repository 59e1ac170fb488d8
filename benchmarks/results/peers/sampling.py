"""Samplers of other libraries, which use torch's global generator, as samplers here."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from darkroom.errors import UsageError
from darkroom.lightning_modules.utils.random import Generators


@contextmanager
def seed_globally(generator: Generators) -> Iterator[None]:
    """Seed torch's global generator from the given one within the context; None: leave it as it is.

    Raises:
        UsageError: there is one generator for each image.
    """
    if isinstance(generator, Sequence):
        raise UsageError("generator must be one torch.Generator, got a list; the library samples all images from one")
    with torch.random.fork_rng(enabled=generator is not None):
        if generator is not None:
            torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))
        yield
