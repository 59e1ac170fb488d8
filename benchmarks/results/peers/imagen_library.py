"""Import of imagen-pytorch."""

from typing import Any
from unittest.mock import patch


def import_imagen_pytorch(dim: int) -> Any:
    """Import the library for tokens of ``dim`` numbers, without its progress bars.

    Raises:
        ImportError: imagen-pytorch is not installed.
    """
    from transformers import T5Config

    # Its modules download the config of a T5 when they are imported, for its width; nothing else of T5 is used.
    with patch.object(T5Config, "from_pretrained", lambda *_, **__: T5Config(d_model=dim)):
        from imagen_pytorch import imagen_pytorch as library
    library.tqdm = lambda steps, **_: steps
    return library
