"""The sampler of exported diffusion models in numpy: the images of ``predict`` for the same seeds."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from darkroom.cli.exported_files import GENERATOR, exported_arguments
from darkroom.errors import UsageError
from darkroom.export.checkpoint import TrainedMethod
from darkroom.export.description import Description
from darkroom.export.generative import sampler
from darkroom.export.write import write_method
from darkroom.lightning_modules.diffusion import (
    DDPM,
    CosineSchedule,
    DenoisingUNet,
    EDMSchedule,
    EfficientUNet,
    ImagenCascade,
    NoiseSchedule,
    RectifiedFlow,
    SuperResolution,
    TextToImage,
    ZeroTerminalSNR,
)
from darkroom.lightning_modules.diffusion.objective.config import Objective
from darkroom.lightning_modules.diffusion.sampling.sampler_config import Sampling
from darkroom.lightning_modules.diffusion.text import LearnedTextEncoder, MiniLM
from darkroom.protocols.export import ExportGraph
from tests.export.bare_interpreter import run_bare

SHAPE, SEEDS = (3, 5, 3), [3, 2**40 + 7]


class Denoiser(nn.Module):
    """Function of all its inputs, which is as nonlinear as a network."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Conv2d(2 * SHAPE[0], channels, 3, padding=1)

    def forward(self, x: Tensor, t: Tensor, *, label: Tensor | None = None, x0: Tensor | None = None) -> Tensor:
        shift = t / 20 - (0 if label is None else label / 4)
        return 2 * self.layer(torch.cat([x, 0 * x if x0 is None else x0], 1) + shift[:, None, None, None]).tanh()


class TorchPart:
    """Part whose graph is run by torch, with the description as it is read from JSON."""

    def __init__(self, graph: ExportGraph) -> None:
        self.graph = graph
        self.about = json.loads(json.dumps({"options": graph.options, "inputs": [asdict(one) for one in graph.inputs]}))

    @torch.no_grad()
    def __call__(self, **inputs: Any) -> list[np.ndarray]:
        given = [np.asarray(inputs[spec["name"]], spec["dtype"]) for spec in self.about["inputs"]]
        return [value.numpy() for value in self.graph.module(*map(torch.from_numpy, given))]


@pytest.mark.parametrize(
    ("sampling", "objective"),
    [
        ({"sampler": "ddim"}, {}),
        ({"sampler": "ddim", "eta": 0.7, "spacing": "quadratic", "threshold": "none"}, {"prediction": "x0"}),
        ({"sampler": "ancestral", "threshold": "dynamic", "percentile": 0.9}, {"prediction": "v"}),
        ({"sampler": "ancestral", "variance": "small", "guidance": 0.0}, {}),
        ({"sampler": "ancestral", "guidance": 3.0}, {"learned_variance": True, "self_conditioning": True}),
        ({"sampler": "dpm_solver++", "order": 1}, {}),
        (
            {"sampler": "dpm_solver++", "order": 3, "guidance": 2.0, "guidance_interval": (0.2, 0.7)},
            {"prediction": "v"},
        ),
        ({"sampler": "heun", "threshold": "dynamic"}, {"prediction": "v", "self_conditioning": True}),
    ],
    ids=lambda value: "-".join(map(str, value.values())) if value else "eps",
)
def test_sampler_reproduces_predict(
    sampling: dict[str, Any], objective: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    check_reproduction(CosineSchedule(40), sampling, objective, monkeypatch)


def check_reproduction(
    schedule: NoiseSchedule, sampling: dict[str, Any], objective: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Check that the sampler in numpy samples the images of ``predict``."""
    conditional = sampling.get("guidance", 1) != 1
    channels = 2 * SHAPE[0] if objective.get("learned_variance") else SHAPE[0]
    model = DDPM(
        SHAPE,
        4,
        network=Denoiser(channels),
        conditional=conditional,
        schedule=schedule,
        objective=Objective(**objective),
        sampling=Sampling(steps=6, **sampling),
    ).eval()
    (part,) = (TorchPart(graph) for graph in model.export_graphs(([0.5] * 3, [0.5] * 3)).values())
    monkeypatch.setattr(sampler, "Part", lambda folder, name: part)
    label = {"label": np.array([1, 3])} if conditional else {}
    images = sampler.sample("", [np.random.RandomState(seed % 2**32) for seed in SEEDS], **label)
    batch = {"seed": torch.tensor(SEEDS)} | {name: torch.from_numpy(value) for name, value in label.items()}
    expected = model.predict_step(batch)
    assert images.dtype == np.float32
    assert np.abs(images - expected.numpy()).max() < 1e-4
    assert expected.std() > 0.1


@pytest.mark.parametrize(
    ("schedule", "sampling", "objective"),
    [
        (RectifiedFlow(40), {"sampler": "ddim", "shift": 3.0}, {"prediction": "flow"}),
        (RectifiedFlow(40), {"sampler": "flow_heun", "guidance": 2.0}, {"prediction": "flow"}),
        (RectifiedFlow(40), {"sampler": "ancestral"}, {"prediction": "flow"}),
        (RectifiedFlow(40), {"sampler": "dpm_solver++", "order": 3}, {"prediction": "x0"}),
        (EDMSchedule(40), {"sampler": "heun"}, {"prediction": "edm", "self_conditioning": True}),
        (EDMSchedule(40), {"sampler": "flow_heun", "guidance": 3.0}, {"prediction": "edm", "sigma_data": 0.3}),
        (ZeroTerminalSNR(CosineSchedule(40)), {"sampler": "ancestral"}, {"prediction": "v", "learned_variance": True}),
        (ZeroTerminalSNR(CosineSchedule(40)), {"sampler": "dpm_solver++"}, {"prediction": "v"}),
    ],
    ids=lambda value: "-".join(map(str, value.values())) if isinstance(value, dict) else type(value).__name__,
)
def test_sampler_reproduces_other_schedules(
    schedule: NoiseSchedule, sampling: dict[str, Any], objective: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    check_reproduction(schedule, sampling, objective, monkeypatch)


@pytest.mark.slow
def test_sampler_runs_with_numpy_and_onnxruntime_alone(tmp_path: Path) -> None:
    """Copy the sampler beside the exported file, and run it in an interpreter that finds these two packages only."""
    torch.manual_seed(0)
    network = DenoisingUNet((3, 8, 8), base_channels=8, multipliers=(1,), blocks=1, attention=())
    model = DDPM((3, 8, 8), network=network, schedule=CosineSchedule(40), sampling=Sampling(sampler="ddim", steps=3))
    model = model.eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    normalization = [0.5] * 3, [0.5] * 3
    trained = TrainedMethod(model, model, normalization, (), 0, tmp_path / "model.ckpt")
    write_method(trained, None, "onnx", tmp_path / "model.onnx", 1)
    code = f"""
import json
import numpy as np
from sampler import sample

generators = [np.random.RandomState(seed % 2**32) for seed in {SEEDS}]
print(json.dumps(sample("{tmp_path}", generators).tolist()))
"""
    (tmp_path / "sampler.py").write_text(Path(sampler.__file__).read_text(encoding="utf-8"), encoding="utf-8")
    (tmp_path / "example.py").write_text(code, encoding="utf-8")
    images = np.array(json.loads(run_bare(tmp_path / "example.py", ["numpy", "onnxruntime"], tmp_path / "packages")))
    expected = model.predict_step({"seed": torch.tensor(SEEDS)}).numpy()
    assert np.abs(images - expected).max() < 1e-4
    assert expected.std() > 0.1


def test_stages_of_a_cascade_sample_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    small = {"schedule": CosineSchedule(40), "sampling": Sampling(steps=3), "ema": None}
    words = LearnedTextEncoder(["red", "circle"], dim=8, layers=1, heads=2)
    network = DenoisingUNet((3, 8, 8), base_channels=8, multipliers=(1,), blocks=1, attention=(), text_dim=8)
    base = TextToImage(words, (3, 8, 8), network=network, **small)
    enlarging = EfficientUNet((3, 16, 16), channels=(8, 16), blocks=(1, 1), head_channels=8)
    cascade = ImagenCascade(base, [SuperResolution((3, 16, 16), factor=2, network=enlarging, **small)]).eval()
    with torch.no_grad():
        for parameter in cascade.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    graphs = [stage.export_graphs(([0.5] * 3, [0.5] * 3)) for stage in cascade.stages]
    assert [list(stage) for stage in graphs] == [["denoiser", "text"], ["denoiser", "upsampler"]]
    monkeypatch.setattr(sampler, "Part", lambda stage, name: TorchPart(graphs[stage][name]))
    captions = ["A red circle!", ""]
    generators = [np.random.RandomState(seed % 2**32) for seed in SEEDS]
    images = sampler.sample(0, generators, **sampler.encode(0, captions))
    images = sampler.sample(1, generators, small=images)
    expected = cascade.predict_step({"seed": torch.tensor(SEEDS), "caption": captions})
    assert np.abs(images - expected.numpy()).max() < 1e-4


def test_frozen_text_encoder_is_named() -> None:
    network = DenoisingUNet((3, 8, 8), base_channels=8, multipliers=(1,), blocks=1, attention=(), text_dim=384)
    graphs = TextToImage(MiniLM(), (3, 8, 8), network=network).export_graphs(([0.5] * 3, [0.5] * 3))
    assert list(graphs) == ["denoiser"]
    assert "model.text is MiniLM" in graphs["denoiser"].notes[0]


@pytest.mark.parametrize("size", [16, 17, 31, 100, 3072])
@pytest.mark.parametrize("seed", [0, 2**40 + 5])
def test_noise_is_that_of_torch(seed: int, size: int) -> None:
    ours, theirs = [np.random.RandomState(seed % 2**32)], torch.Generator().manual_seed(seed)
    for _ in range(3):
        noise = torch.randn(size, generator=theirs).numpy()
        assert np.abs(sampler.normal(ours, [size])[0] - noise).max() < 5e-6


def test_sampler_has_at_most_60_lines_of_code() -> None:
    """Comments and docstrings do not count; users copy the file."""
    text = Path(sampler.__file__).read_text(encoding="utf-8").split('"""')[::2]
    lines = [line.strip() for part in text for line in part.splitlines()]
    assert sum(bool(line) and not line.startswith("#") for line in lines) <= 60


@pytest.mark.parametrize(
    ("part", "others", "expected"),
    [("decoder", (), "Prompts"), ("denoiser", ("text",), "Prompts"), ("denoiser", ("upsampler",), "")],
)
def test_predict_runs_parts_on_prompts(part: str, others: tuple[str, ...], expected: str, tmp_path: Path) -> None:
    description = Description("M", "generation", (), (), "", {}, part=part)
    for name in (part, *others):
        (tmp_path / f"model.{name}.onnx").write_bytes(b"")
    path = tmp_path / f"model.{part}.onnx"
    path.with_suffix(".json").write_text(description.to_json(), encoding="utf-8")
    if expected:
        before, after = exported_arguments(path, configured=False)
        assert before[:2] == ["--data", expected]
        assert after == ["--model", GENERATOR, "--model.path", str(path)]
    else:
        with pytest.raises(UsageError, match="enlarges images"):
            exported_arguments(path, configured=False)
