"""Contract of every method: its training step does not synchronize with a GPU, found on the CPU by what would."""

import traceback
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch.utils._python_dispatch import TorchDispatchMode

# Operations whose values, or whose number of values, the CPU must know before the next one.
_SYNCHRONIZING = {
    "_local_scalar_dense",  # .item(), float() and bool() of a tensor
    "nonzero",
    "masked_select",
    "_unique2",
    "unique_dim",
    "unique_consecutive",
    "repeat_interleave",
    "bincount",
    "equal",
}
_INDEXING = {
    "index",
    "index_put",
    "index_put_",
    "_index_put_impl_",
}  # which search the places of a mask, as nonzero does
_OWN = ("lightning_modules", "callbacks", "datamodules", "torchvision")

_ONE_HOT = "one_hot checks its labels on the CPU, and not on a GPU"
_RANDOM = "a random number of the CPU"
_BEFORE = "boxes are checked on the CPU, before they are copied to a GPU"
_REGIONS = "regions are chosen by their values, and their number is not known before"
_TORCHVISION = "torchvision's code, of which the same holds"
_CPU = "runs on CPUs only"
# Places that synchronize, by function and operation, each with the reason why it may.
REASONS = {
    "networks.one_hot: _local_scalar_dense": _ONE_HOT,
    "yolo.yolo_loss: _local_scalar_dense": _ONE_HOT,
    "yolo._best_boxes: _local_scalar_dense": _ONE_HOT,
    "base._predicts_twice: _local_scalar_dense": _RANDOM,
    "convolutionalization.classify_windows: _local_scalar_dense": _RANDOM,
    "base.check_boxes: _local_scalar_dense": _BEFORE,
    "boxes._choose: nonzero": _REGIONS,
    "region_align.forward: nonzero": _CPU,
    "region_align.align_by_products: nonzero": _CPU,
    "sampling.sample_windows: tolist": _REGIONS,
    "sampling.sample_windows: nonzero": _REGIONS,
    "sampling.sample_windows: bincount": _REGIONS,
    "rcnn._mask_loss: nonzero": _REGIONS,
    "generalized_rcnn.forward: _local_scalar_dense": _TORCHVISION,
    "transform.torch_choice: _local_scalar_dense": _TORCHVISION,
    "boxes.remove_small_boxes: nonzero": _TORCHVISION,
    "roi_heads.subsample: nonzero": _TORCHVISION,
    "roi_heads.fastrcnn_loss: nonzero": _TORCHVISION,
    "rpn.filter_proposals: nonzero": _TORCHVISION,
    "rpn.compute_loss: nonzero": _TORCHVISION,
    "poolers._multiscale_roi_align: nonzero": _TORCHVISION,
    "_utils.set_low_quality_matches_: nonzero": _TORCHVISION,
    "_utils.__call__: nonzero": _TORCHVISION,
}
# Reasons of places that the search on the CPU finds, and that do not synchronize with a GPU.
_HARMLESS = (_ONE_HOT, _RANDOM, _BEFORE, _CPU)


class SynchronizationContract:
    """Part of the contracts of the families; ``build`` and ``data`` are theirs."""

    epochs = 1  # of the shortest fit; the training steps of the first are examined

    def build(self, **kwargs: Any) -> Any:
        raise NotImplementedError

    def data(self, **kwargs: Any) -> Any:
        raise NotImplementedError

    def test_training_step_synchronizes_only_for_stated_reasons(self, tmp_path: Path) -> None:
        """A new place belongs into ``REASONS`` only if it does not synchronize on a GPU, or cannot be avoided."""
        found = synchronizations(self.build(), self.data(batch_size=2, train_size=6), tmp_path, self.epochs)
        new = found - REASONS.keys()
        assert not new, new

    @pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
    def test_training_step_on_a_gpu_synchronizes_only_for_stated_reasons(self, tmp_path: Path) -> None:
        """A method without reasons trains with torch's mode "error"; those of the others are compared by their place."""
        found = synchronizations(self.build(), self.data(batch_size=2, train_size=6), tmp_path, self.epochs)
        reasons = {place.partition(":")[0] for place in found if REASONS.get(place) not in _HARMLESS}
        watch = _WatchedSteps(stops=not reasons)
        fit_three_steps(self.build(), self.data(batch_size=2, train_size=6), tmp_path, self.epochs, watch, "gpu")
        assert watch.places - reasons == set()


def synchronizations(model: LightningModule, data: LightningDataModule, folder: Path, epochs: int) -> set[str]:
    """Return the places that synchronize in the second and third training step, forward and backward."""
    found = _Synchronizations()
    fit_three_steps(model, data, folder, epochs, found, "cpu")
    return found.places


def fit_three_steps(
    model: LightningModule, data: LightningDataModule, folder: Path, epochs: int, watch: Callback, accelerator: str
) -> None:
    """Fit a model for three steps in every epoch, with one callback, and without logs and checkpoints."""
    quiet: dict[str, Any] = dict.fromkeys(
        ("logger", "enable_progress_bar", "enable_model_summary", "enable_checkpointing"), False
    )
    limits: dict[str, Any] = {"limit_train_batches": 3, "limit_val_batches": 0, "num_sanity_val_steps": 0}
    trainer = Trainer(
        accelerator=accelerator,
        devices=1,
        max_epochs=epochs,
        default_root_dir=folder,
        callbacks=[watch],
        **quiet,
        **limits,
    )
    trainer.fit(model, data)


class _Watch(Callback):
    """Collects places in the second and third training step of the first epoch."""

    def __init__(self) -> None:
        self.places: set[str] = set()

    def begin(self) -> None:
        raise NotImplementedError

    def end(self) -> None:
        raise NotImplementedError

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx > 0 and trainer.current_epoch == 0:
            self.begin()

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx > 0 and trainer.current_epoch == 0:
            self.end()


class _Synchronizations(_Watch):
    """Collects what would synchronize, by the operations on the CPU."""

    def __init__(self) -> None:
        super().__init__()
        self._mode = _Recorder(self.places)

    def begin(self) -> None:
        self._mode.__enter__()

    def end(self) -> None:
        self._mode.__exit__(None, None, None)


class _WatchedSteps(_Watch):
    """Collects what synchronizes with a GPU, by torch's debug mode.

    Args:
        stops: the first one raises an error.
    """

    def __init__(self, stops: bool) -> None:
        super().__init__()
        self._mode = "error" if stops else "warn"
        self._show = warnings.showwarning

    def begin(self) -> None:
        self._show, warnings.showwarning = warnings.showwarning, self._note
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode(self._mode)

    def end(self) -> None:
        torch.cuda.set_sync_debug_mode("default")
        warnings.showwarning = self._show

    def on_exception(self, trainer: Any, module: Any, exception: BaseException) -> None:
        self.end()

    def _note(self, message: Any, *args: Any, **kwargs: Any) -> None:
        if "synchronizing CUDA operation" in str(message):
            self.places.add(_place() or "outside of Darkroom and torchvision")


_CONVERSIONS = (
    "tolist",
    "numpy",
    "cpu",
)  # copies to Python and to the CPU, which call no operation of a tensor on the CPU


class _Recorder(TorchDispatchMode):
    def __init__(self, places: set[str]) -> None:
        super().__init__()
        self.places = places
        self._methods = {name: getattr(torch.Tensor, name) for name in _CONVERSIONS}

    def __enter__(self) -> Any:
        for name, method in self._methods.items():
            setattr(torch.Tensor, name, self._recording(name, method))
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        for name, method in self._methods.items():
            setattr(torch.Tensor, name, method)
        super().__exit__(*error)

    def _recording(self, name: str, method: Any) -> Any:
        def convert(*args: Any, **kwargs: Any) -> Any:
            if place := _place():
                self.places.add(f"{place}: {name}")
            return method(*args, **kwargs)

        return convert

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = str(func).split(".")[1]
        known = name == "repeat_interleave" and kwargs.get("output_size") is not None
        found = (name in _SYNCHRONIZING and not known) or (name in _INDEXING and _is_by_mask(*args))
        if found and (place := _place()):
            self.places.add(f"{place}: {name}")
        return func(*args, **kwargs)


def _is_by_mask(x: torch.Tensor, indices: Sequence[torch.Tensor | None], *value: Any) -> bool:
    """Return whether an index has a mask whose places must be found.

    A number of Python is filled in without that. A tensor of one value is not, but looks the same on a CPU.
    """
    number = bool(value) and isinstance(value[0], torch.Tensor) and value[0].numel() == 1
    masks = (torch.bool, torch.uint8)
    return not number and any(index is not None and index.dtype in masks for index in indices)


def _place() -> str:
    """Return the innermost function of Darkroom or torchvision on the stack; empty if there is none."""
    for frame in reversed(traceback.extract_stack()):
        parts = Path(frame.filename).parts
        own = any(part in _OWN for part in parts) and "tests" not in parts
        if own and not frame.name.startswith("<"):  # a comprehension is a frame of its own before Python 3.12
            return f"{Path(frame.filename).stem}.{frame.name}"
    return ""
