"""AttentionMapLogger: attention of a sample to each word of its prompt."""

from collections.abc import Sequence

import torch
from lightning import LightningModule, Trainer
from torch import Tensor

from darkroom.callbacks.base import generators, logged_step, wandb_images
from darkroom.callbacks.plotting.grids import expand_to_rgb, image_grid, tile_size
from darkroom.callbacks.plotting.images import overlay_heat, resize
from darkroom.callbacks.plotting.page import ImagePage
from darkroom.callbacks.prompt_figures import PromptFigures
from darkroom.protocols import WordMapModel

_MOST_WORDS = 9  # words in a row; a longer prompt continues in the next row
_SMALLEST = 112  # pixels of a small image
_DARK = 0.25  # fraction of the strongest word, below which maps stay darker


class AttentionMapLogger(PromptFigures):
    """Shows a sample of each prompt and, for each word, the heat map of the attention to the word over the sample.

    A heat map is the mean over all steps and attention layers, relative to its own maximum. The map of a word with much
    less attention than another stays dark. Tokens of one word are summed; special tokens are omitted.

    A fit writes ``figures/attention/<step>.png``; ``validate`` and ``test`` write to ``figures/<stage>_attention``. The
    noise is the same in every epoch.

    Args:
        prompts: texts to sample; None: the first different captions of the validation (or test) set.
        num_prompts: number of captions of the data.
        every_n_validations: log figures after every n-th validation of a fit, and in every other command.
        seed: seed of the noise.
    """

    needs = WordMapModel
    supported = "TextToImage"

    def __init__(
        self, prompts: Sequence[str] | None = None, num_prompts: int = 4, every_n_validations: int = 1, seed: int = 0
    ) -> None:
        super().__init__(prompts, num_prompts, every_n_validations, seed)

    def log_prompts(self, trainer: Trainer, module: LightningModule, prompts: list[str], stage: str) -> None:
        """Sample the prompts with their attention maps and publish the figure."""
        model = self.require(module, WordMapModel)
        with trainer.precision_plugin.forward_context():
            sampled, words, maps = model.word_maps(prompts, generator=generators(self.seed, len(prompts)))
        images = expand_to_rgb(model.to_uint8(sampled))
        height, width = images.shape[2:]
        tile = tile_size(height, width, 1 + _MOST_WORDS, _SMALLEST)
        tiles = [
            [image, *_overlay_maps(image, one.float().cpu(), tile)] for image, one in zip(images, maps, strict=True)
        ]
        below = [["", *some] for some in words]
        figure = attention_sheet(tiles, below, prompts, f"step {logged_step(trainer)}", tile)
        captions = [
            f"{word}: {prompt}" if word else prompt for prompt, row in zip(prompts, below, strict=True) for word in row
        ]
        what = "attention" if trainer.state.fn == "fit" else f"{stage}_attention"
        self.publish(
            trainer, what, figure, wandb_images([resize(image, tile) for row in tiles for image in row], captions)
        )


def _overlay_maps(image: Tensor, maps: Tensor, tile: tuple[int, int]) -> list[Tensor]:
    """Return the image under each word's map (H, W) of (n, H, W), at the size of a tile."""
    if not len(maps):
        return []  # a prompt without words
    strongest = torch.maximum(maps.amax((1, 2), keepdim=True), _DARK * maps.amax()).clamp(min=1e-12)
    return [overlay_heat(resize(image, tile), one) for one in maps / strongest]


def attention_sheet(
    tiles: Sequence[Sequence[Tensor]],
    words: Sequence[Sequence[str]],
    names: Sequence[str],
    title: str,
    tile: tuple[int, int],
) -> ImagePage:
    """Draw one or more rows for each prompt: its sample, then a tile for each word, above that word.

    Args:
        tiles: images uint8 (3, H, W).
        words: one for each tile.
        names: one for each prompt.
        title: title of the figure.
        tile: height and width at which images are shown.
    """
    rows: list[list[Tensor | None]] = []
    below: list[list[str]] = []
    beside: list[str] = []
    for (image, *maps), (head, *written), name in zip(tiles, words, names, strict=True):
        for start in range(0, max(1, len(maps)), _MOST_WORDS):
            some, first = slice(start, start + _MOST_WORDS), start == 0
            rows.append([image if first else None, *maps[some]])
            below.append([head if first else "", *written[some]])
            beside.append(name if first else "")
    return image_grid(rows, beside, (), title, captions=below, tile=tile)
