"""FineTuning: pretrained layers with a lower learning rate, frozen in the first epochs, or with constant batch norms."""

from collections.abc import Callable, Iterable, Iterator, Sequence

from lightning import LightningModule
from lightning.pytorch.strategies import DDPStrategy
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer

from darkroom.errors import UsageError
from darkroom.lightning_modules.optimizers import Optim, build_in_groups
from darkroom.lightning_modules.utils.fsdp import Sharded


class FineTuning:
    """Treatment of the pretrained layers of a module in a fit, beside those that begin afresh.

    Lightning's BackboneFinetuning needs a module called ``backbone``, and adds its parameters to the optimizer in the
    middle of the fit, where schedulers and DDP do not expect them. Here all parameters are in the optimizer from the start.
    Frozen ones have no gradient, so that no time is spent on them, and their optimizer states begin when they thaw.

    Args:
        options: of the optimization.

    Attributes:
        layers: names of the pretrained layers, those that ``init_from`` or ``weights`` loaded; saved in checkpoints.
    """

    def __init__(self, options: Optim) -> None:
        self.options = options
        self.layers: tuple[str, ...] = ()
        self._frozen: tuple[str, ...] = ()  # parameters that would be trained otherwise
        self._constant: tuple[str, ...] = ()  # batch norms that would be in training mode otherwise

    def build_optimizer(
        self, module: LightningModule, build: Callable[[Sequence[nn.Parameter]], Optimizer], network: nn.Module
    ) -> Optimizer:
        """Build the optimizer of a network; pretrained layers with a rate of their own have their own parameter groups.

        Args:
            module: has the pretrained layers; in its fit.
            build: builds an optimizer of parameters.
            network: the module itself, or the one of its networks that the optimizer is for.

        Raises:
            UsageError: no layer is pretrained, no layer would be trained, or the weights are sharded.
        """
        self.release(module)  # left by an interrupted fit
        trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
        if not self.options.treats_pretrained_layers:
            return build(trained)
        self._refuse_sharding(module)
        self._require_layers(module)
        pretrained = {parameter for _, parameter in _parameters_of(module, self.layers)}
        fresh = [parameter for parameter in trained if parameter not in pretrained]
        if self.options.freeze_epochs and not fresh:
            raise UsageError(
                f"model.optim.freeze_epochs must be 0: all layers of {type(network).__name__} are pretrained, so nothing "
                "would be trained while they are frozen"
            )
        constant = {parameter for _, parameter in self._always_frozen(module)}
        trained = [parameter for parameter in trained if parameter not in constant]
        if not trained:
            raise UsageError(
                f"model.optim.freeze_layers must be less than {self.options.freeze_layers}: all layers of "
                f"{type(network).__name__} are pretrained and frozen, so nothing would be trained"
            )
        if self.options.backbone_lr == 1:
            return build(trained)
        others = [parameter for parameter in trained if parameter in pretrained]
        return build_in_groups(build, [("new", 1.0, fresh), ("pretrained", self.options.backbone_lr, others)])

    def begin_epoch(self, module: LightningModule) -> None:
        """Freeze or thaw layers as the current epoch of a fit requires; also called when a fit resumes within it."""
        options = self.options
        layers = self.layers if module.current_epoch < options.freeze_epochs else self._first_layers(module)
        norms = dict(_norms_of(module, self.layers if options.freeze_batch_norm else layers))
        parameters = dict(_parameters_of(module, [*layers, *norms]))
        before = self._frozen
        self.release(module)
        self._constant = tuple(name for name, norm in norms.items() if norm.training)
        self._frozen = tuple(name for name, parameter in parameters.items() if parameter.requires_grad)
        for name in self._frozen:
            parameters[name].requires_grad_(False)
            parameters[name].grad = None  # left by an interrupted fit
        self.keep_constant(module)
        strategy = module.trainer.strategy
        if self._frozen != before and isinstance(strategy, DDPStrategy):
            # DDP waits for the gradients of the parameters that were trained when it wrapped the module, and reduces no
            # others.
            strategy.model = module
            strategy.configure_ddp()

    def release(self, module: nn.Module) -> None:
        """Thaw all frozen layers."""
        for name in self._frozen:
            module.get_parameter(name).requires_grad_(True)
        for name in self._constant:
            module.get_submodule(name).train()
        self._frozen = self._constant = ()

    def keep_constant(self, module: nn.Module) -> None:
        """Put the constant batch norms into eval mode again, after ``train``."""
        for name in self._constant:
            module.get_submodule(name).eval()

    def _refuse_sharding(self, module: LightningModule) -> None:
        """Raise a UsageError where a checkpoint, which has the pretrained layers, is loaded after this."""
        if isinstance(module.trainer.strategy, Sharded):
            raise UsageError(
                "model.optim.backbone_lr must be 1, freeze_epochs and freeze_layers 0, and freeze_batch_norm false, where "
                "weights are sharded among GPUs; use configs/trainer/ddp.yaml instead of fsdp.yaml"
            )

    def _require_layers(self, module: LightningModule) -> None:
        if self.layers:
            return
        names = {"backbone_lr": 1.0, "freeze_epochs": 0, "freeze_layers": 0, "freeze_batch_norm": False}
        given = [name for name, default in names.items() if vars(self.options)[name] != default]
        raise UsageError(
            f"model.optim.{given[0]} is {vars(self.options)[given[0]]}, but {type(module).__name__} has no pretrained "
            "layers: all begin afresh; set model.init_from to a checkpoint or a state dict, or model.weights where the "
            f"method has it, or leave out {', '.join(f'model.optim.{name}' for name in given)}"
        )

    def _first_layers(self, module: nn.Module) -> list[str]:
        """Return the pretrained layers up to the last convolution that is always frozen, with the norms after it.

        Raises:
            UsageError: there are fewer pretrained convolutions.
        """
        pretrained, first, convolutions = set(self.layers), list[str](), 0
        for name, layer in module.named_modules() if self.options.freeze_layers else ():
            if name in pretrained:
                convolutions += isinstance(layer, nn.Conv2d)
                if convolutions > self.options.freeze_layers:
                    return first
                first.append(name)
        if convolutions < self.options.freeze_layers:
            raise UsageError(
                f"model.optim.freeze_layers must be at most {convolutions}, the pretrained convolutions of "
                f"{type(module).__name__}, got {self.options.freeze_layers}"
            )
        return first

    def _always_frozen(self, module: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield the parameters that no epoch trains, with their names."""
        norms = _norms_of(module, self.layers) if self.options.freeze_batch_norm else ()
        return _parameters_of(module, [*self._first_layers(module), *(name for name, _ in norms)])


def _norms_of(module: nn.Module, layers: Iterable[str]) -> Iterator[tuple[str, nn.Module]]:
    """Yield the batch norms among layers, with their names."""
    for name in layers:
        layer = module.get_submodule(name)
        if isinstance(layer, _BatchNorm):
            yield name, layer


def _parameters_of(module: nn.Module, layers: Iterable[str]) -> Iterator[tuple[str, nn.Parameter]]:
    """Yield the parameters of layers, without those of their children, with their full names."""
    for name in layers:
        yield from module.get_submodule(name).named_parameters(name, recurse=False)
