"""AttributeTally: in how many pictures a judge finds what was asked for."""

from collections.abc import Sequence

import torch
from torch import Tensor

from darkroom.lightning_modules.metrics.attribute_judge import AttributeJudge, fulfilled
from darkroom.lightning_modules.metrics.scores import summed


class AttributeTally:
    """Counts pictures in which what was asked for is seen, over all ranks.

    Args:
        judge: sees.
        names: of the attributes.
        forms: names of the captions' forms.
        device: where it does.
    """

    def __init__(
        self, judge: AttributeJudge, names: Sequence[str], device: torch.device, forms: Sequence[str] = ()
    ) -> None:
        self.judge, self.forms, self.device = judge.to(device), tuple(forms), device
        self.names = ("all", "seen", "held_out", *(f"form {name}" for name in forms), *names)
        with torch.inference_mode():  # as in look, whatever mode it is called in
            self.counts = torch.zeros(2, len(self.names), device=device)  # right, and asked for

    @torch.inference_mode()
    def look(self, images: Tensor, said: Tensor, held_out: Tensor, form: Tensor | None = None) -> None:
        """Adds pictures, uint8 (B, C, H, W), what was said of their attributes, int64 (B, A), -1 where nothing was, whether
        objects in it were held out of training, bool (B,), and the form in which it was said, int64 (B,).
        """
        with torch.autocast(self.device.type, enabled=False):
            right = fulfilled(self.judge.attributes(images), said)
        groups = [torch.ones_like(held_out), ~held_out, held_out]
        groups += [form == index for index in range(len(self.forms))]
        whole = right.all(1, keepdim=True).expand(-1, len(groups))
        asked = torch.cat([torch.stack(groups, 1), said >= 0], 1)
        right = torch.cat([whole, right], 1) & asked
        self.counts += torch.stack([right.sum(0), asked.sum(0)])

    @torch.inference_mode()
    def parts(self) -> dict[str, float]:
        """The parts in [0, 1] that are right, the same on all ranks: of pictures ``all``, those without held-out objects
        (``seen``) and those with (``held_out``), and of each form (``form relation``), everything said; and each attribute.
        Without those never asked for.
        """
        right, asked = summed(self.counts).tolist()
        return {name: r / a for name, r, a in zip(self.names, right, asked, strict=True) if a}
