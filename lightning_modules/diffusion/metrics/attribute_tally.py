"""AttributeTally: counts samples whose attributes are those of their captions."""

from collections.abc import Sequence

import torch
from torch import Tensor

from darkroom.lightning_modules.metrics.attribute_judge import AttributeJudge, match_attributes
from darkroom.lightning_modules.metrics.scores import sum_over_ranks


class AttributeTally:
    """Counts images whose predicted attributes are those of their captions, over all ranks.

    Args:
        judge: predicts attributes.
        names: of the attributes.
        device: of the judge.
        forms: names of the captions' forms.
    """

    def __init__(
        self, judge: AttributeJudge, names: Sequence[str], device: torch.device, forms: Sequence[str] = ()
    ) -> None:
        self.judge, self.forms, self.device = judge.to(device), tuple(forms), device
        self.names = ("all", "seen", "held_out", *(f"form {name}" for name in forms), *names)
        with torch.inference_mode():  # as in update, in any mode
            self.counts = torch.zeros(2, len(self.names), device=device)  # right, and stated

    @torch.inference_mode()
    def update(self, images: Tensor, stated: Tensor, held_out: Tensor, form: Tensor | None = None) -> Tensor:
        """Add images, and return their predicted attributes, int64 (B, A).

        Args:
            images: uint8 (B, C, H, W).
            stated: attributes of the captions, int64 (B, A), -1 where a caption states none.
            held_out: bool (B,), True for captions with objects that are held out of training.
            form: of the captions, int64 (B,); needed if there are ``forms``.
        """
        with torch.autocast(self.device.type, enabled=False):
            judged = self.judge.attributes(images)
        right = match_attributes(judged, stated)
        groups = [torch.ones_like(held_out), ~held_out, held_out]
        if form is not None:
            groups += [form == index for index in range(len(self.forms))]
        whole = right.all(1, keepdim=True).expand(-1, len(groups))
        counted = torch.cat([torch.stack(groups, 1), stated >= 0], 1)
        right = torch.cat([whole, right], 1) & counted
        self.counts += torch.stack([right.sum(0), counted.sum(0)])
        return judged

    @torch.inference_mode()
    def fractions(self) -> dict[str, float]:
        """Compute the fractions of images that are right, the same on all ranks.

        All attributes of the caption must be right for ``all`` images, for those without (``seen``) and with held-out
        objects (``held_out``), and for those of one form (``form relation``). Attributes have fractions of their own.
        Groups without images are left out.
        """
        right, counted = sum_over_ranks(self.counts).tolist()
        return {name: r / n for name, r, n in zip(self.names, right, counted, strict=True) if n}
