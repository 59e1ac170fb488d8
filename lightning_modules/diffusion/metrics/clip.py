"""ClipScore: agreement of images and captions by CLIP."""

from importlib.util import find_spec

import torch
from torch import Tensor
from torch.nn import functional as F

from darkroom.errors import UsageError
from darkroom.lightning_modules.metrics.scores import sum_over_ranks
from darkroom.paths import install_command


class ClipScore:
    """Mean of 100 times the cosine of the embeddings of an image and its caption, at least 0, over all ranks (Hessel et al.
    2021, without their factor of 2.5). Captions are truncated to CLIP's 77 tokens.

    Args:
        name: a folder with model and processor, or a name in the local Hugging Face cache.

    Raises:
        UsageError: transformers or the weights are missing.
    """

    def __init__(self, name: str) -> None:
        if find_spec("transformers") is None:
            raise UsageError(f"model.scores.clip needs the package transformers: {install_command('text')}")
        from transformers import CLIPModel, CLIPProcessor

        try:
            self.model = CLIPModel.from_pretrained(name, local_files_only=True).eval().requires_grad_(False)
            self.processor = CLIPProcessor.from_pretrained(name, local_files_only=True)
        except (OSError, ValueError) as error:
            raise UsageError(
                f"model.scores.clip: {name} cannot be loaded ({error}); nothing is downloaded: where there is a "
                "network, run `hf download openai/clip-vit-base-patch32 --local-dir clip`, and set model.scores.clip to "
                "that folder"
            ) from error
        self.sums = [0.0, 0.0]  # of cosines, and of images

    @torch.inference_mode()
    def update(self, images: Tensor, captions: list[str]) -> None:
        """Add images, uint8 (B, 3 or 1, H, W), with their captions."""
        rgb = list(images.expand(-1, 3, -1, -1).cpu())
        inputs = self.processor(text=captions, images=rgb, return_tensors="pt", padding=True, truncation=True)
        with torch.autocast(images.device.type, enabled=False):
            output = self.model.to(images.device)(**inputs.to(images.device))
        cosine = F.cosine_similarity(output.image_embeds.float(), output.text_embeds.float())
        self.sums[0] += 100 * cosine.clamp(min=0).sum().item()
        self.sums[1] += len(captions)

    def compute(self, device: torch.device) -> float:
        """Reduce over ranks, on this device, and reset."""
        total, count = sum_over_ranks(torch.tensor(self.sums, device=device)).tolist()
        self.sums = [0.0, 0.0]
        return total / count
