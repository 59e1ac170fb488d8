"""Contract of every method: with ``optim.compile``, its training step has the loss and the gradients of the eager one."""

import math
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch._dynamo
import torch._inductor.config
from lightning import LightningDataModule, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from torch._dynamo.utils import counters


class CompilationContract:
    """Part of the contracts of the families; ``build`` and ``data`` are theirs."""

    # Captures graphs and derives their backward pass as inductor does, without its C++ compiler, which takes a minute.
    # One method of each family has inductor.
    compile_backend = "aot_eager"
    compile_mode = "default"  # of inductor

    epochs = 1  # of the shortest fit; the first step is compared

    def build(self, **kwargs: Any) -> Any:
        raise NotImplementedError

    def data(self, **kwargs: Any) -> Any:
        raise NotImplementedError

    @pytest.fixture
    def _compiler(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        compile_module = nn.Module.compile

        def compile_in_place(module: nn.Module, mode: str) -> None:
            if self.compile_backend == "inductor":
                compile_module(module, mode=mode)
            else:
                compile_module(module, backend=self.compile_backend)

        monkeypatch.setattr(nn.Module, "compile", compile_in_place)
        torch._dynamo.reset()
        counters.clear()
        with torch._inductor.config.patch(fallback_random=True):  # random numbers of eager mode
            yield
        torch._dynamo.reset()

    @pytest.mark.slow
    @pytest.mark.usefixtures("_compiler")
    def test_compiled_training_step_equals_eager(self, tmp_path: Path) -> None:
        data = {"batch_size": 2, "train_size": 2}
        loss, gradients = first_step(self.build, self.data(**data), tmp_path, self.epochs)
        assert not counters["stats"]["unique_graphs"]
        compiled_loss, compiled_gradients = first_step(
            self.build, self.data(**data), tmp_path, self.epochs, self.compile_mode
        )
        assert counters["stats"]["unique_graphs"] > 0
        torch.testing.assert_close(compiled_loss, loss, rtol=1e-4, atol=1e-5, equal_nan=True)
        assert compiled_gradients.keys() == gradients.keys()
        largest = {name: float(gradient.abs().max()) for name, gradient in gradients.items()}
        rounding = 1e-5 * max(largest.values())  # of biases before a batch norm, whose gradient is 0
        for name, gradient in gradients.items():
            torch.testing.assert_close(
                compiled_gradients[name],
                gradient,
                rtol=1e-3,
                atol=1e-3 * largest[name] + rounding,
                msg=partial("{}: {}".format, name),
            )

    @pytest.mark.slow
    def test_validation_equals_eager_where_graphs_overwrite_outputs(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A CUDA graph (``compile_mode`` reduce-overhead) writes the outputs of a call over those of the call before."""
        graphs = OverwritingGraphs()
        monkeypatch.setattr(nn.Module, "compile", lambda module, mode: graphs.compile(module))
        torch._dynamo.reset()
        data = {"batch_size": 2, "train_size": 2, "val_size": 4}
        eager, compiled = (validate(self.build, self.data(**data), tmp_path, compiled) for compiled in (False, True))
        torch._dynamo.reset()
        assert graphs.calls > 0
        assert compiled.keys() == eager.keys()
        for name, value in eager.items():
            torch.testing.assert_close(compiled[name], value, rtol=1e-3, atol=1e-4, equal_nan=True, msg=name)


class OverwritingGraphs:
    """Compiler without generated code. Outside of training, the call of a network overwrites all earlier outputs with NaN.

    That is what the memory of CUDA graphs allows: a graph may write over the outputs of those that ran before it.
    """

    def __init__(self) -> None:
        self.outputs: list[Tensor] = []
        self.calls = 0

    def __call__(self, graph: nn.Module, inputs: list[Tensor]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            outputs = graph(*arguments)
            if not torch.is_grad_enabled():  # in training, graphs keep what the backward pass needs
                given = {of.untyped_storage().data_ptr() for of in arguments if isinstance(of, Tensor)}
                new = [output for output in outputs if isinstance(output, Tensor) and output.is_floating_point()]
                self.outputs += [output for output in new if output.untyped_storage().data_ptr() not in given]
            return outputs

        return call

    def compile(self, module: nn.Module) -> None:
        """Compile a module in place."""
        module._compiled_call_impl = self._started(torch.compile(module._call_impl, backend=self))

    def _started(self, compiled: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            self.calls += 1
            for output in self.outputs:
                output.fill_(math.nan)
            self.outputs.clear()
            return compiled(*arguments, **named)

        return call


def validate(build: Any, data: LightningDataModule, folder: Path, compiled: bool) -> dict[str, Tensor]:
    """Return the metrics of a validation of new weights."""
    seed_everything(0)
    model = build()
    model.optim.compile, model.optim.compile_mode = compiled, "reduce-overhead"
    quiet: dict[str, Any] = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary"), False)
    trainer = Trainer(accelerator="cpu", default_root_dir=folder, **quiet)
    trainer.validate(model, data, verbose=False)
    return dict(trainer.callback_metrics)


def first_step(
    build: Any, data: LightningDataModule, folder: Path, epochs: int, compile_mode: str | None = None
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the loss of the first training step, NaN for manual optimization, and the gradients by parameter.

    Without a mode, the step is not compiled.
    """
    seed_everything(0)
    model, seen = build(), _FirstStep()
    if compile_mode:
        model.optim.compile, model.optim.compile_mode = True, compile_mode
    quiet: dict[str, Any] = dict.fromkeys(
        ("logger", "enable_progress_bar", "enable_model_summary", "enable_checkpointing"), False
    )
    limits: dict[str, Any] = {"limit_train_batches": 1, "limit_val_batches": 0, "num_sanity_val_steps": 0}
    Trainer(accelerator="cpu", max_epochs=epochs, default_root_dir=folder, callbacks=[seen], **quiet, **limits).fit(
        model, data
    )
    return seen.loss, seen.gradients


class _FirstStep(Callback):
    """Keeps the gradients of the first step of every optimizer, and the first loss."""

    def __init__(self) -> None:
        self.loss = torch.tensor(math.nan)
        self.gradients: dict[str, Tensor] = {}

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        for name, parameter in pl_module.named_parameters():
            if parameter.grad is not None:
                self.gradients.setdefault(name, parameter.grad.clone())

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *args: Any) -> None:
        if isinstance(outputs, dict) and "loss" in outputs and self.loss.isnan():
            self.loss = outputs["loss"].detach().clone()
