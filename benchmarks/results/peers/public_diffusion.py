"""PublicDDPM: denoising-diffusion-pytorch (P. Wang, MIT) as a method here, so that ``same_budget`` can train it."""

from typing import Any

from denoising_diffusion_pytorch import GaussianDiffusion, Unet
from denoising_diffusion_pytorch import denoising_diffusion_pytorch as library
from ema_pytorch import EMA
from torch import Tensor

from benchmarks.results.peers.sampling import seed_globally
from darkroom.lightning_modules.base import Technique
from darkroom.lightning_modules.generation.base import Generative
from darkroom.lightning_modules.metrics.sample_scores import SampleScores
from darkroom.lightning_modules.optimizers import Optim
from darkroom.lightning_modules.utils.random import Generators

library.tqdm = lambda steps, **_: steps  # no progress bar for every batch of samples


class PublicDDPM(Generative, Technique):
    """The library's GaussianDiffusion and Unet with their defaults: v prediction, sigmoid schedule of 1,000 steps, DDIM.

    The EMA is that of the library's Trainer: decay 0.995, updated after every tenth step.

    Args:
        image_shape: (C, S, S); the command line takes it from the data.
        dim: channels of the first map.
        multipliers: factors of ``dim`` for the maps, each of half the side of the previous one.
        sampling_steps: number of DDIM steps.
        scores, optim: see Generative.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int] | None = None,
        dim: int = 64,
        multipliers: tuple[int, ...] = (1, 2, 4, 8),
        sampling_steps: int = 50,
        scores: SampleScores | None = None,
        optim: Optim | None = None,
    ) -> None:
        super().__init__(image_shape=image_shape, scores=scores, optim=optim)
        unet = Unet(dim, dim_mults=tuple(multipliers), channels=self.image_shape[0])
        size = self.image_shape[1:]
        self.network = GaussianDiffusion(unet, image_size=size, sampling_timesteps=sampling_steps, auto_normalize=False)
        self.ema = EMA(self.network, beta=0.995, update_every=10, include_online_model=False)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor | None:
        return self.log_loss({"loss": self.network(self.images_of(batch))})

    def on_train_batch_end(self, *_: Any) -> None:
        self.ema.update()

    def evaluate(self, batch: dict[str, Any], stage: str) -> dict[str, Tensor]:
        """Return the loss of the EMA weights on a batch, with the noise of the evaluation."""
        x, diffusion = self.images_of(batch), self.ema.ema_model
        position = self.noise(len(x), generator=self.evaluation_noise, uniform=True)
        t = (position * diffusion.num_timesteps).long()
        return {"loss": diffusion.p_losses(x, t, noise=self.noise(*x.shape, generator=self.evaluation_noise))}

    def sample_images(self, n: int, labels: Tensor | None = None, generator: Generators = None) -> Tensor:
        """Sample by the library's own sampler."""
        with seed_globally(generator):
            return self.ema.ema_model.sample(n).clone()
