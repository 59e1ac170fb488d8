"""Initial weights from a file: a checkpoint of any method with the same layers, or a state dict of torchvision or timm.

Layers are matched by name, up to the modules around them: ``features.0`` of a classifier is ``network.front.features.0`` of
a DilatedNet. A layer is loaded as a whole or not at all. Besides equal shapes there are two conversions: a Linear layer
becomes the equivalent convolution, and the first convolution is adapted to another number of channels.
"""

import re
from abc import ABCMeta
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from inspect import Signature, signature
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import Tensor, nn

from darkroom.errors import UsageError
from darkroom.lightning_modules.layers.ema import EMA
from darkroom.lightning_modules.utils.normalization import Statistics, read_normalization
from darkroom.lightning_modules.utils.safe_load import read_safely
from darkroom.lightning_modules.utils.torchvision_weights import record_fetched_weights
from darkroom.protocols import PretrainedNetwork

Module = TypeVar("Module")

OPTION = "model.init_from"
# Keys under which training scripts save a state dict, in order of preference: timm, torchvision, Lightning.
_NESTED = ("state_dict_ema", "model_ema", "state_dict", "model")
# Modules around a whole network whose layers have numbers for names.
_WRAPPERS = ("", "network", "model", "module")
# Fully connected layers of AlexNet and VGG, by their names in the papers: in timm, and in DeconvNet with batch norm.
_RENAMED = ((r"\bpre_logits\.fc1$", "fc6"), (r"\bpre_logits\.fc2$", "fc7"), (r"\b(fc[67])\.0$", r"\1"))
_NUMBERED = re.compile(r"(?P<prefix>.*\b)(?P<head>classifier|hidden)\.(?P<index>\d+)")
_COUNTER = "num_batches_tracked"


class StartsFromFile(ABCMeta):
    """Metaclass that loads the weights of ``init_from`` once the whole constructor has run, whatever it has built."""

    @property
    def __signature__(cls) -> Signature:
        """Signature of the constructor, which ``inspect`` would take from ``__call__``."""
        own = signature(cls.__init__)  # type: ignore[misc]  # of the class itself, not of an instance
        return own.replace(parameters=list(own.parameters.values())[1:])

    def __call__(cls: type[Module], *args: Any, **kwargs: Any) -> Module:
        """Construct a module, load the weights of its ``init_from``, if it names a file; note its pretrained layers.

        The normalization that these layers expect is noted too.
        """
        with record_fetched_weights() as fetched:
            module = super().__call__(*args, **kwargs)  # type: ignore[misc]  # cls is an instance of this metaclass
        # Networks that state their own pretrained layers: those of the arguments, which were built before and which the
        # module may have converted, and those that it has built.
        parts = [*args, *kwargs.values(), *module.children()]
        networks = [part for part in parts if isinstance(part, PretrainedNetwork) and part.pretrained_layers]
        pretrained = layers_with_values_of(module, [*fetched, *map(_pretrained_state, networks)])
        expected = [module.expected_normalization, *(network.expected_normalization for network in networks)]
        if module.init_from is not None:
            loaded = load_initial_weights(module, Path(module.init_from))
            pretrained += loaded.layers
            expected.insert(0, loaded.normalization)  # these weights replace the others
        module.expected_normalization = next((statistics for statistics in expected if statistics is not None), None)
        module.fine_tuning.layers = tuple(dict.fromkeys(pretrained))
        return module


def _pretrained_state(network: PretrainedNetwork) -> dict[str, Tensor]:
    """Return the tensors of the layers of a network that start from pretrained weights."""
    assert isinstance(network, nn.Module)
    layers = set(network.pretrained_layers)
    return {name: value for name, value in network.state_dict().items() if name.rpartition(".")[0] in layers}


class _Layer(NamedTuple):
    """Tensors of a module itself, without its children."""

    name: str
    tensors: dict[str, Tensor]

    @property
    def weight(self) -> Tensor | None:
        """Largest tensor if it has two dimensions or more: the layer's weight."""
        largest = max(self.tensors.values(), key=lambda tensor: tensor.ndim)
        return largest if largest.ndim > 1 else None


class _Pair(NamedTuple):
    """A layer of the module, the layer of that name in the file, and the values to load; None: shapes differ."""

    here: _Layer
    there: _Layer
    values: dict[str, Tensor] | None


class Loaded(NamedTuple):
    """Outcome of ``load_initial_weights``.

    Attributes:
        layers: names of the module's layers that got weights.
        normalization: of the images on which the weights were trained; None: the file does not state it.
    """

    layers: list[str]
    normalization: Statistics | None


def load_initial_weights(module: nn.Module, path: Path) -> Loaded:
    """Load the layers of a module that are in a file; report what was loaded, and which layers begin afresh.

    EMA weights of the file are preferred to the trained ones. Averages of the module start from the loaded weights.

    Args:
        module: receives the weights.
        path: checkpoint of a method, or a state dict. Files that would run code raise.

    Raises:
        UsageError: the file cannot be read, no layer fits, or most layers have another shape; names both sides.
    """
    kind, state, normalization = _read(path)
    here, pairs = _match_state(module, state, f"{path} ({kind})")
    loaded = set()
    with torch.no_grad():
        for pair in pairs:
            for name, value in (pair.values or {}).items():
                pair.here.tensors[name].copy_(value)
                loaded.add(f"{pair.here.name}.{name}")
    _restart_averages(module)
    rank_zero_info(_report(f"{OPTION} {path.name} ({kind})", list(here.values()), pairs, loaded))
    return Loaded([pair.here.name for pair in pairs if pair.values is not None], normalization)


def require_initial_weights_fit(module: nn.Module, state: dict[str, Tensor], source: str) -> None:
    """Raise a UsageError if ``load_initial_weights`` would refuse a file with these tensors; load nothing.

    Args:
        module: would receive the weights.
        state: tensors by name.
        source: name of the file's origin in the message.
    """
    _match_state(module, state, source)


def _match_state(module: nn.Module, state: dict[str, Tensor], source: str) -> tuple[dict[str, _Layer], list[_Pair]]:
    """Return the layers of a module by name, and its pairs with those of a state dict; require that they fit."""
    here, there = _named(_own_layers(module)), _named(_layers(_averaged(state)))
    pairs = _match(here, there)
    _require_fit(pairs, here, there, f"{OPTION}: {source} does not fit {type(module).__name__}")
    return here, pairs


# --- the file ---------------------------------------------------------------------------------------------------------


def _read(path: Path) -> tuple[str, dict[str, Tensor], Statistics | None]:
    """Read the class that wrote a file, or another word for its content, its tensors by name and the normalization."""
    content = read_safely(f"{OPTION}:", path)
    state, kind, normalization = content, "state dict", None
    if isinstance(content, dict):
        if isinstance(content.get("hyper_parameters"), dict):
            kind = str(content["hyper_parameters"].get("_class_path", "checkpoint")).rpartition(".")[2]
            normalization = read_normalization(content)
        state = next((content[key] for key in _NESTED if isinstance(content.get(key), dict)), content)
    tensors = {
        str(name).replace("_orig_mod.", ""): value
        for name, value in (state.items() if isinstance(state, dict) else ())
        if isinstance(value, Tensor)  # some publishers add settings
    }
    if not tensors:
        raise UsageError(f"{OPTION}: {path} must hold a state dict, got a {type(state).__name__} without tensors")
    return kind, tensors, normalization


def _averaged(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Replace the trained weights of each network that has EMA weights beside it, ``ema.module.*``, by these."""
    averages: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for name, value in state.items():
        prefix, found, inner = f".{name}".rpartition(".ema.module.")
        if found:
            averages[f"{prefix}.".lstrip(".")][inner] = value
    for prefix, average in averages.items():
        others = {name for name in state if name.startswith(prefix) and not name.startswith(f"{prefix}ema.")}
        for sibling in dict.fromkeys(name.removeprefix(prefix).partition(".")[0] for name in sorted(others)):
            if {f"{prefix}{sibling}.{inner}" for inner in average} <= others:
                state = {name: value for name, value in state.items() if not name.startswith(f"{prefix}ema.")}
                state |= {f"{prefix}{sibling}.{inner}": value for inner, value in average.items()}
                break
    return state


# --- layers and their names -------------------------------------------------------------------------------------------


def _layers(state: Mapping[str, Tensor]) -> list[_Layer]:
    layers: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for name, value in state.items():
        layer, _, own = name.rpartition(".")
        layers[layer][own] = value
    return [_Layer(name, tensors) for name, tensors in layers.items()]


def _own_layers(module: nn.Module) -> list[_Layer]:
    """Return the layers of the networks of a module: not of its averages, nor of children that do not learn, as losses."""
    constant = [name for name, child in module.named_children() if not list(child.parameters())]
    averages = [name for name, child in module.named_modules() if isinstance(child, EMA)]
    left_out = tuple(f"{name}." for name in (*constant, *averages))
    state = module.state_dict(keep_vars=True)
    return _layers({name: value for name, value in state.items() if not name.startswith(left_out)})


def _named(layers: Sequence[_Layer]) -> dict[str, _Layer]:
    """Return layers by name, with the papers' names for the fully connected layers of a classifier: fc6, fc7, score."""
    names = {layer.name: layer.name for layer in layers}
    numbered: dict[tuple[str, str], list[tuple[int, str]]] = defaultdict(list)
    for layer in layers:
        for pattern, name in _RENAMED:
            names[layer.name] = re.sub(pattern, name, names[layer.name])
        found = _NUMBERED.fullmatch(layer.name)
        if found and layer.weight is not None:
            numbered[found["prefix"], found["head"]].append((int(found["index"]), layer.name))
    for (prefix, head), members in numbered.items():
        for position, (_, name) in enumerate(sorted(members)):
            last = head == "classifier" and position == len(members) - 1
            names[name] = f"{prefix}score" if last else f"{prefix}fc{6 + position}"
    unique = len(set(names.values())) == len(names)
    return {names[layer.name] if unique else layer.name: layer for layer in layers}


def layers_with_values_of(module: nn.Module, states: Sequence[Mapping[str, Tensor]]) -> list[str]:
    """Return the names of layers that have a tensor of one of the states, by any name and in any shape.

    One tensor is sufficient, because a loader may rescale the others. Constant ones, such as zero biases, do not count.
    """
    known: dict[tuple[Any, ...], list[Tensor]] = defaultdict(list)
    for state in states:
        for value in state.values():
            if value.numel() and value.min() < value.max():
                known[_key(value)].append(value)

    def is_known(value: Tensor) -> bool:
        return any(torch.equal(value.flatten(), other.flatten()) for other in known.get(_key(value), []))

    return [layer.name for layer in _own_layers(module) if known and any(map(is_known, layer.tensors.values()))]


def _key(value: Tensor) -> tuple[Any, ...]:
    """Return what tensors of equal values, in shapes of the same size, have in common."""
    ends = value.detach().flatten()[[0, -1]].tolist() if value.numel() else []
    return value.dtype, value.numel(), *ends


# --- matching ---------------------------------------------------------------------------------------------------------


def _match(here: Mapping[str, _Layer], there: Mapping[str, _Layer]) -> list[_Pair]:
    """Pair the layers whose names agree up to the modules around them.

    Of all pairs of surrounding modules, those with the most common names are taken. What is left of that module of the file
    may fit elsewhere, as fully connected layers in the head of a detector.
    """
    around: dict[tuple[str, str], list[tuple[str, str]]] = defaultdict(list)
    ends = defaultdict(list)
    for name in there:
        ends[name.rpartition(".")[2]].append(name)
    for mine in here:
        for its in ends[mine.rpartition(".")[2]]:
            surrounding = _surrounding(mine, its)
            if surrounding is not None:
                around[surrounding].append((mine, its))
    if not around:
        return []
    candidates = {modules: _pairs(names, here, there) for modules, names in around.items()}
    best = max(candidates, key=lambda modules: (*_count(candidates[modules]), -sum(map(len, modules))))
    pairs, used = candidates[best], {pair.there.name for pair in candidates[best]}
    matched = {pair.here.name for pair in pairs}
    for (_, its_module), others in candidates.items():
        for pair in others:
            fits = pair.values is not None and pair.here.weight is not None
            if its_module == best[1] and fits and pair.here.name not in matched and pair.there.name not in used:
                pairs.append(pair)
                matched.add(pair.here.name)
                used.add(pair.there.name)
    return pairs


def _surrounding(mine: str, its: str) -> tuple[str, str] | None:
    """Return the modules around two layers of the same name; None if that name is a number within different modules."""
    ours, theirs = mine.split("."), its.split(".")
    shared = 0
    while shared < min(len(ours), len(theirs)) and ours[-1 - shared] == theirs[-1 - shared]:
        shared += 1
    around = ".".join(ours[:-shared]), ".".join(theirs[:-shared])
    return around if not ours[-shared].isdigit() or set(around) <= set(_WRAPPERS) else None


def _pairs(names: Sequence[tuple[str, str]], here: Mapping[str, _Layer], there: Mapping[str, _Layer]) -> list[_Pair]:
    """Pair layers; only the first convolution of both sides may have another number of channels."""
    ours = next((pair for pair in names if _is_convolution(here[pair[0]])), None)
    theirs = next((pair for pair in names if _is_convolution(there[pair[1]])), None)
    first = ours if ours == theirs else None
    return [
        _Pair(here[mine], there[its], _convert(here[mine], there[its], first=(mine, its) == first))
        for mine, its in names
    ]


def _is_convolution(layer: _Layer) -> bool:
    return layer.weight is not None and layer.weight.ndim == 4


def _convert(here: _Layer, there: _Layer, first: bool) -> dict[str, Tensor] | None:
    """Return the values for a layer from that of a file, in its shapes; None if they do not fit."""
    if here.tensors.keys() - {_COUNTER} != there.tensors.keys() - {_COUNTER}:
        return None
    values = {name: there.tensors[name] for name in here.tensors if name in there.tensors}
    for name, value in values.items():
        shape = here.tensors[name].shape
        if value.ndim == 2 and len(shape) == 4 and value.numel() == shape.numel() and len(value) == shape[0]:
            values[name] = value.view(shape)  # Long et al. 2015, section 3.1: the same function of a window
        elif first and value.ndim == len(shape) == 4 and value[:, 0].shape == (shape[0], *shape[2:]):
            values[name] = value if value.shape == shape else adapt_channels(value, shape[1])
        elif value.shape != shape:
            return None
    return values


def adapt_channels(weight: Tensor, channels: int) -> Tensor:
    """Adapt a convolution (O, C, k, k) to another number of channels: its sum over channels, shared out equally.

    The sum, not the mean, because it keeps the response to a grey image, whose channels are equal. For one channel it is
    the response of the RGB network to that grey image.
    """
    return weight.sum(1, keepdim=True).expand(-1, channels, -1, -1) / channels


def _count(pairs: Sequence[_Pair]) -> tuple[int, int]:
    """Count the weights with a common name, and those that fit."""
    weights = [pair for pair in pairs if pair.here.weight is not None]
    return len(weights), sum(pair.values is not None for pair in weights)


def _is_clash(pair: _Pair) -> bool:
    """Return whether layers of the same name are of different kinds, such as a convolution and a batch norm."""
    return bool((pair.here.tensors.keys() ^ pair.there.tensors.keys()) - {_COUNTER})


# --- after loading ----------------------------------------------------------------------------------------------------


def _restart_averages(module: nn.Module) -> None:
    """Start every EMA of a module from the current weights of its network, a child of the same parent."""
    for parent in module.modules():
        for average in parent.children():
            if isinstance(average, EMA):
                shapes = _shapes(average.module)
                network = next(child for child in parent.children() if _shapes(child) == shapes)
                average.module.load_state_dict(network.state_dict())


def _shapes(module: nn.Module) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in module.state_dict().items()}


def _require_fit(pairs: Sequence[_Pair], here: Mapping[str, _Layer], there: Mapping[str, _Layer], refusal: str) -> None:
    """Raise a UsageError unless at least half of the weights with a common name fit; layers of other kinds count twice."""
    _, fitting = _count(pairs)
    differ = [pair for pair in pairs if pair.values is None and (pair.here.weight is not None or _is_clash(pair))]
    if fitting and fitting >= len(differ) + sum(map(_is_clash, differ)):
        return
    common = "no layer has the same name"
    if len(differ) == 1 and not fitting:  # such as the scores of two unlike classifiers
        mine, its = _first_difference(differ[0])
        common = f"only one layer has the same name, {its} in the file and {mine} in the model"
    elif differ:
        ours, theirs = zip(*(_first_difference(pair) for pair in differ[:2]), strict=True)
        raise UsageError(
            f"{refusal}: {len(differ)} of {fitting + len(differ)} layers with the same name have another shape or kind: "
            f"the file has {', '.join(theirs)}, the model {', '.join(ours)}; set model.backbone, model.width and other "
            "sizes as in the file"
        )
    raise UsageError(
        f"{refusal}: {common}; the file has {_examples(there)}, the model {_examples(here)}; use a "
        "checkpoint of the same method, or of one with the same backbone"
    )


def _first_difference(pair: _Pair) -> tuple[str, str]:
    """Describe the tensors of both sides that differ first."""
    own, its = pair.here.tensors, pair.there.tensors
    common = own.keys() & its.keys()
    names = [name for name in (*own, *its) if name != _COUNTER]
    name = next(name for name in names if name not in common or own[name].shape != its[name].shape)
    return _described(pair.here, name), _described(pair.there, name)


def _described(layer: _Layer, name: str) -> str:
    value = layer.tensors.get(name)
    return f"{layer.name}.{name} {'missing' if value is None else tuple(value.shape)}".lstrip(".")


def _examples(layers: Mapping[str, _Layer]) -> str:
    return ", ".join(_described(layer, name) for layer in list(layers.values())[:3] for name in list(layer.tensors)[:1])


def _report(file: str, layers: Sequence[_Layer], pairs: Sequence[_Pair], loaded: set[str]) -> str:
    total = sum(len(layer.tensors) for layer in layers)
    text = f"{file}: {len(loaded)} of {total} tensors loaded"
    fresh = list(_fresh(layers, pairs))
    if not fresh:
        return text
    shown = f"{', '.join(fresh[:4])}{f' and {len(fresh) - 4} more' if len(fresh) > 4 else ''}"
    return f"{text}; {shown} {'begins' if len(fresh) == 1 else 'begin'} afresh"


def _fresh(layers: Sequence[_Layer], pairs: Sequence[_Pair]) -> Iterator[str]:
    """Yield the largest modules of which no layer that learns was loaded, as ``roi_heads.*``."""
    learned = [layer for layer in layers if any(isinstance(value, nn.Parameter) for value in layer.tensors.values())]
    loaded = {pair.here.name for pair in pairs if pair.values is not None}
    around_loaded = {module for layer in learned if layer.name in loaded for module in _modules_around(layer.name)}
    fresh: dict[str, str] = {}
    for layer in learned:
        if layer.name not in loaded:
            module = next((name for name in _modules_around(layer.name) if name not in around_loaded), layer.name)
            fresh[module] = fresh.get(module) or _other_outputs(layer, pairs)
    yield from (f"{module.removeprefix('network.')}.*{remark}" for module, remark in fresh.items())


def _modules_around(name: str) -> Iterator[str]:
    """Yield the path of a layer and of all modules around it, the outermost first."""
    parts = name.split(".")
    yield from (".".join(parts[: length + 1]) for length in range(len(parts)))


def _other_outputs(layer: _Layer, pairs: Sequence[_Pair]) -> str:
    """State the numbers of outputs on both sides if a layer differs in them alone, as for other classes."""
    for pair in pairs:
        here, there = layer.weight, pair.there.weight
        if pair.here.name == layer.name and here is not None and there is not None and len(here) != len(there):
            return f" ({len(there)} outputs there, {len(here)} here)"
    return ""
