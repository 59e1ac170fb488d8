"""Entries of a checkpoint that give its weights their meaning, and checks of them when a fit resumes."""

from collections.abc import Sequence
from typing import Any, Protocol

from lightning import Trainer
from torch.utils.data import DataLoader

from darkroom.errors import UsageError
from darkroom.lightning_modules.fine_tuning import FineTuning
from darkroom.lightning_modules.utils.normalization import Statistics
from darkroom.protocols import CategoryData, NormalizedData
from darkroom.runtime.lightning_compat import class_names_of, datamodule_of


class TrainedModule(Protocol):
    """Method with what ``record_training`` records of it."""

    fine_tuning: FineTuning
    own_normalization: Statistics | None


def record_training(trainer: Trainer, module: TrainedModule) -> dict[str, Any]:
    """Return the entries of a checkpoint that give its weights their meaning, as plain values.

    - ``samples_per_step``: samples of an optimizer step, over all ranks;
    - ``class_names``: of the data, in the order of their ids;
    - ``category_ids``: ids of the categories in the data, in the order of the labels;
    - ``normalization``: mean and standard deviation, per channel in [0, 1], that the data are normalized by;
    - ``own_normalization``: those by which the method itself normalizes images;
    - ``pretrained_layers``: names of the layers that the fit started from pretrained weights.

    None stands for what the data do not have.
    """
    data, names = datamodule_of(trainer), class_names_of(trainer)
    normalization = [list(data.mean), list(data.std)] if isinstance(data, NormalizedData) else None
    own = module.own_normalization
    return {
        "samples_per_step": samples_per_step(trainer),
        "class_names": None if names is None else list(names),
        "category_ids": list(map(int, data.category_ids)) if isinstance(data, CategoryData) else None,
        "normalization": normalization,
        "own_normalization": own and [list(values) for values in own],
        "pretrained_layers": list(module.fine_tuning.layers),
    }


def samples_per_step(trainer: Trainer) -> int | None:
    """Return the number of samples of an optimizer step, over all ranks; None without a training loader of batches."""
    loader = trainer.train_dataloader
    if not isinstance(loader, DataLoader) or loader.batch_size is None:
        return None
    return loader.batch_size * trainer.world_size * trainer.accumulate_grad_batches


def require_samples_per_step(trainer: Trainer, saved: int | None, schedules: Sequence[type]) -> None:
    """Raise a UsageError if a fit resumes with steps of another size, which a schedule counts.

    Args:
        trainer: of the fit.
        saved: samples of a step when the checkpoint was written; None: unknown.
        schedules: of the method that count steps, besides those of the learning rate.
    """
    stepped = [type(config.scheduler) for config in trainer.lr_scheduler_configs if config.interval == "step"]
    schedules = [*stepped, *schedules]
    now = samples_per_step(trainer)
    if saved is None or now is None or saved == now or not schedules:
        return
    raise UsageError(
        f"ckpt_path: {schedules[0].__name__} counts steps, which had {saved} samples when the checkpoint was written and "
        f"have {now} in this fit; make data.batch_size x trainer.accumulate_grad_batches x number of ranks {saved} again"
    )
