"""PublicUNet2D: diffusers' UNet2DModel (Apache-2.0) as a method here, so that ``same_budget`` can train it."""

from typing import Any

import diffusers
import torch
from diffusers.training_utils import EMAModel
from torch import Tensor
from torch.nn import functional as F

from benchmarks.results.peers.sampling import seed_globally
from darkroom.lightning_modules.base import Technique
from darkroom.lightning_modules.generation.base import Generative
from darkroom.lightning_modules.metrics.sample_scores import SampleScores
from darkroom.lightning_modules.optimizers import Optim
from darkroom.lightning_modules.utils.random import Generators

library: Any = diffusers  # its lazy imports show a type checker placeholders without methods


class PublicUNet2D(Generative, Technique):
    """The library's UNet2DModel with the loop of its ``train_unconditional.py``: predicted noise, linear schedule, EMA.

    Args:
        image_shape: (C, S, S); the command line takes it from the data.
        channels: of the maps, each of half the side of the previous one; the last has attention.
        layers: residual blocks of each map of the encoder.
        groups: of the group norms.
        sampling_steps: number of DDIM steps.
        scores, optim: see Generative.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int] | None = None,
        channels: tuple[int, ...] = (16, 32, 64),
        layers: int = 1,
        groups: int = 8,
        sampling_steps: int = 50,
        scores: SampleScores | None = None,
        optim: Optim | None = None,
    ) -> None:
        super().__init__(image_shape=image_shape, scores=scores, optim=optim)
        shape = {
            "sample_size": self.image_shape[1],
            "in_channels": self.image_shape[0],
            "out_channels": self.image_shape[0],
            "block_out_channels": tuple(channels),
            "down_block_types": ("DownBlock2D",) * (len(channels) - 1) + ("AttnDownBlock2D",),
            "up_block_types": ("AttnUpBlock2D",) + ("UpBlock2D",) * (len(channels) - 1),
            "layers_per_block": layers,
            "norm_num_groups": groups,
        }
        self.network, self.average = library.UNet2DModel(**shape), library.UNet2DModel(**shape).requires_grad_(False)
        self.average.load_state_dict(self.network.state_dict())
        self.ema = EMAModel(self.network.parameters(), decay=0.9999, use_ema_warmup=True, inv_gamma=1.0, power=0.75)
        self.noising, self.denoising = library.DDPMScheduler(), library.DDIMScheduler()
        self.denoising.set_timesteps(sampling_steps)

    def _loss(self, network: Any, x: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        return F.mse_loss(network(self.noising.add_noise(x, noise, t), t).sample.float(), noise)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor | None:
        x = self.images_of(batch)
        t = torch.randint(self.noising.config.num_train_timesteps, (len(x),), device=x.device)
        return self.log_loss({"loss": self._loss(self.network, x, t, torch.randn_like(x))})

    def on_train_batch_end(self, *_: Any) -> None:
        self.ema.to(self.device)
        self.ema.step(self.network.parameters())
        self.ema.copy_to(self.average.parameters())

    def evaluate(self, batch: dict[str, Any], stage: str) -> dict[str, Tensor]:
        """Return the loss of the EMA weights on a batch, with the noise of the evaluation."""
        x = self.images_of(batch)
        position = self.noise(len(x), generator=self.evaluation_noise, uniform=True)
        t = (position * self.noising.config.num_train_timesteps).long()
        return {"loss": self._loss(self.average, x, t, self.noise(*x.shape, generator=self.evaluation_noise))}

    def sample_images(self, n: int, labels: Tensor | None = None, generator: Generators = None) -> Tensor:
        """Sample by the library's DDIM."""
        with seed_globally(generator):
            x = torch.randn(n, *self.image_shape).to(self.device)
            for t in self.denoising.timesteps:
                x = self.denoising.step(self.average(x, t).sample, t, x).prev_sample
            return x
