"""AttentionMapLogger: where in a picture each word of its prompt was looked at."""

from collections.abc import Sequence

import torch
from lightning import LightningModule, Trainer
from torch import Tensor

from darkroom.callbacks.base import captioned, generators, steps_taken
from darkroom.callbacks.plotting.grids import as_pictures, picture_grid, tile_size
from darkroom.callbacks.plotting.heat_maps import heated
from darkroom.callbacks.plotting.images import PAPER, resize
from darkroom.callbacks.prompt_figures import PromptPictures

_MOST_WORDS = 9  # in a row; a longer prompt goes on in the next
_SMALLEST = 112  # pixels of a small picture
_DARK = 0.25  # of the strongest word: words below it glow less


class AttentionMapLogger(PromptPictures):
    """Draws prompts and, for each word, the picture again, glowing where it looked at the word while it was drawn: the mean
    over all steps and attention maps, of each word in proportion to where it was strongest. A word that was looked at far
    less than another stays dark. What a text encoder reads in pieces is one word here; its own marks are left out.

    A fit leaves ``pictures/attention/<step>.png``; ``validate`` and ``test`` draw into ``pictures/<stage>_attention``. The
    noise is the same every time.

    Args:
        prompts: what is drawn; None: the first different captions of the validation (or test) set.
        num_prompts: how many captions of the data.
        every_n_validations: draw after every n-th validation of a fit, and in every other command.
        seed: decides the noise.
    """

    methods = ("word_maps", "to_uint8")
    techniques = "TextToImage"

    def __init__(
        self, prompts: Sequence[str] | None = None, num_prompts: int = 4, every_n_validations: int = 1, seed: int = 0
    ) -> None:
        super().__init__(prompts, num_prompts, every_n_validations, seed)

    def draw_prompts(self, trainer: Trainer, module: LightningModule, prompts: list[str], stage: str) -> None:
        with trainer.precision_plugin.forward_context():
            drawn, words, maps = module.word_maps(prompts, generator=generators(self.seed, len(prompts)))
        pictures = as_pictures(module.to_uint8(drawn))
        tile = tile_size(*pictures.shape[2:], 1 + _MOST_WORDS, _SMALLEST)
        tiles = [
            [resize(picture, tile), *_glowing(picture, one.float().cpu(), tile)]
            for picture, one in zip(pictures, maps, strict=True)
        ]
        below = [["", *some] for some in words]
        sheet = attention_sheet(tiles, below, prompts, f"step {steps_taken(trainer)}")
        said = [
            f"{word}: {prompt}" if word else prompt for prompt, row in zip(prompts, below, strict=True) for word in row
        ]
        what = "attention" if trainer.state.fn == "fit" else f"{stage}_attention"
        self.publish(trainer, what, sheet, captioned([picture for row in tiles for picture in row], said))


def _glowing(picture: Tensor, maps: Tensor, tile: tuple[int, int]) -> list[Tensor]:
    """The picture for each word's map (H, W) of (n, H, W), as large as a tile."""
    if not len(maps):
        return []  # a prompt without words
    strongest = torch.maximum(maps.amax((1, 2), keepdim=True), _DARK * maps.amax()).clamp(min=1e-12)
    return [heated(resize(picture, tile), one) for one in maps / strongest]


def attention_sheet(
    tiles: Sequence[Sequence[Tensor]], words: Sequence[Sequence[str]], names: Sequence[str], title: str
) -> Tensor:
    """A row for each prompt, or several: its picture, then a tile for each word, which stands below it.

    Args:
        tiles: pictures uint8 (3, H, W) of one size.
        words: one for each tile.
        names: one for each prompt.
        title: above all.
    """
    rows, below, beside = [], [], []
    blank = torch.tensor(PAPER, dtype=torch.uint8).view(3, 1, 1).expand_as(tiles[0][0])
    for (picture, *glowing), (head, *said), name in zip(tiles, words, names, strict=True):
        for start in range(0, max(1, len(glowing)), _MOST_WORDS):
            some, first = slice(start, start + _MOST_WORDS), start == 0
            rows.append([picture if first else blank, *glowing[some]])
            below.append([head if first else "", *said[some]])
            beside.append(name if first else "")
    return picture_grid(rows, beside, (), title, captions=below, smallest=1)
