"""Running loss: means of the training loss, accumulated on the device and checked for NaN."""

from collections.abc import Mapping
from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor
from torch.distributed.tensor import DTensor

from darkroom.errors import TrainingError
from darkroom.protocols import DescribesBatches
from darkroom.runtime.lightning_compat import datamodule_of, log_interval, steps_taken

_MOST_PENDING = 1000  # most batches whose terms stay on the device


class RunningLoss:
    """Means of a training loss's terms, which synchronize with the device only when they are logged."""

    def __init__(self) -> None:
        # Sums over _count batches of each term, and the terms that are still on the device.
        self._terms: list[str] = []
        self._sums: list[float] = []
        self._count = 0
        self._pending: list[list[Tensor]] = []
        self._places: list[tuple[int, int]] = []
        self._first_bad: tuple[int, int] | None = None

    def add(self, module: LightningModule, terms: Mapping[str, Tensor]) -> None:
        """Add a batch's scalar terms, and log the means if this step is one that logs."""
        loop, trainer = module.trainer.fit_loop, module.trainer
        if list(terms) != self._terms:
            self.fold(module)
            self._terms, self._sums, self._count = list(terms), [0.0] * len(terms), 0
        self._pending.append([value.detach() for value in terms.values()])
        self._places.append((module.current_epoch, loop.batch_idx))
        every = log_interval(trainer)
        steps_now = (loop.batch_idx + 1) % trainer.accumulate_grad_batches == 0 or trainer.is_last_batch
        if every and steps_now and (steps_taken(trainer) + 1) % every == 0:
            self.log(module, on_step=True)
        elif len(self._pending) == _MOST_PENDING:
            self.fold(module)

    def log(self, module: LightningModule, on_step: bool) -> None:
        """Log the means since the last call as ``train/<term>`` and start over."""
        self.fold(module)
        if not self._count:
            return
        means = {name: total / self._count for name, total in zip(self._terms, self._sums, strict=True)}
        self._sums, self._count = [0.0] * len(self._terms), 0
        # The progress bar has room for the loss; without one, for the losses of the two networks.
        on_bar = {"loss"} & means.keys() or {name for name in means if name.endswith("_loss")}
        for prog_bar, names in ((True, on_bar), (False, means.keys() - on_bar)):
            values = {f"train/{name}": mean for name, mean in means.items() if name in names}
            if values:
                module.log_dict(
                    values,
                    prog_bar=prog_bar,
                    on_step=on_step,
                    on_epoch=not on_step,
                    sync_dist=module.trainer.world_size > 1,
                )

    def fold(self, module: LightningModule) -> None:
        """Add the pending terms to the sums, in one synchronization.

        Raises:
            TrainingError: a term is not finite on any rank; names the batch it began with.
        """
        pending, places = self._pending, self._places
        self._pending, self._places = [], []
        if pending:
            values = torch.stack([torch.stack([v.float() for v in terms]) for terms in pending]).cpu().double()
            self._sums = [total + new for total, new in zip(self._sums, values.sum(0).tolist(), strict=True)]
            self._count += len(pending)
            bad = (~values.isfinite().all(1)).nonzero().flatten().tolist()
            if bad and self._first_bad is None:
                self._first_bad = places[bad[0]]
        if module.trainer.world_size > 1:
            anywhere = module.trainer.strategy.reduce_boolean_decision(self._first_bad is not None, all=False)
            if anywhere and self._first_bad is None:
                raise TrainingError(
                    "the loss is not finite on another rank; see the error of that rank, which names the batch"
                )
        if self._first_bad is not None:
            raise TrainingError(_explain_bad_loss(module, *self._first_bad))

    def state_dict(self) -> dict[str, Any]:
        """Return the sums and counts, for a checkpoint."""
        return {"terms": self._terms, "sums": self._sums, "count": self._count}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""
        sums = dict(zip(state["terms"], map(float, state["sums"]), strict=True))
        self._terms, self._sums, self._count = list(sums), list(sums.values()), int(state["count"])


def _explain_bad_loss(module: LightningModule, epoch: int, batch_idx: int) -> str:
    data = datamodule_of(module.trainer)
    samples = f": {data.describe_batch(epoch, batch_idx)}" if isinstance(data, DescribesBatches) else ""
    clip = "trainer" if module.automatic_optimization else "model.optim"
    return (
        f"the loss is not finite since batch {batch_idx} of epoch {epoch}{samples}. Look at these samples; if they are "
        f"fine, lower the learning rate or set {clip}.gradient_clip_val"
    )


def require_finite_weights(module: LightningModule) -> None:
    """Keep non-finite weights out of checkpoints: one step can break them although its loss was finite.

    Raises:
        TrainingError: a weight of any rank is NaN or infinite.
    """
    weights = [(name, weight) for name, weight in module.named_parameters() if weight.is_floating_point()]
    shards = [weight.to_local() if isinstance(weight, DTensor) else weight for _, weight in weights]
    finite = torch.stack([shard.isfinite().all() for shard in shards] or [torch.tensor(True)]).tolist()
    broken = not all(finite)
    if module.trainer.world_size > 1:
        broken = module.trainer.strategy.reduce_boolean_decision(broken, all=False)
    if broken:
        names = [name for (name, _), sound in zip(weights, finite, strict=True) if not sound] or ["of another rank"]
        raise TrainingError(
            f"weights are not finite ({names[0]}, {len(names)} in all) after step {module.trainer.global_step}; they are "
            "not saved, and the previous checkpoint is intact. Lower the learning rate or set a gradient_clip_val"
        )
