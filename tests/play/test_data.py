"""Data of pages for the script: colours of many classes, names of examples, samplers, and matched boxes."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from darkroom.errors import UsageError
from darkroom.lightning_modules.classification import BackboneClassifier, ImageClassifier
from darkroom.lightning_modules.detection import SSD
from darkroom.lightning_modules.detection.ssd import assign
from darkroom.lightning_modules.diffusion import (
    DDPM,
    CosineSchedule,
    DenoisingUNet,
    NoiseSchedule,
    RectifiedFlow,
)
from darkroom.lightning_modules.diffusion.objective.config import Objective
from darkroom.lightning_modules.diffusion.sampling.sampler_config import Sampling
from darkroom.play import generation as generation_module
from darkroom.play import perception as perception_module
from darkroom.play.examples import Example, as_data, read_examples
from darkroom.play.generation import generation, sampling_tables
from darkroom.play.perception import perception
from darkroom.protocols.export import TensorSpec
from tests.play.javascript import evaluate, needs_node

COUNT = 1000  # classes


def classifier() -> tuple[torch.nn.Module, dict[str, Any]]:
    """Return a classifier of 1,000 classes, and the truth of an example."""
    network = BackboneClassifier("vgg11_bn", COUNT, (3, 32, 32), width=0.05)
    return ImageClassifier(network, num_classes=COUNT, image_shape=(3, 32, 32)), {"label": torch.tensor(999)}


def detector() -> tuple[torch.nn.Module, dict[str, Any]]:
    """Return a detector of 1,000 classes, and the truth of an example."""
    target = {"boxes": torch.tensor([[1.0, 2.0, 9.0, 12.0]]), "labels": torch.tensor([1000])}
    return SSD(num_classes=COUNT, backbone="resnet18", width=0.05, image_size=64), {"target": target}


@pytest.mark.parametrize("build", [classifier, detector])
def test_page_of_a_thousand_classes(build: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model, truth = build()
    trained = SimpleNamespace(
        model=model.eval(), class_names=(), normalization=((0.5,) * 3, (0.5,) * 3), path=Path("last.ckpt")
    )
    description = SimpleNamespace(part="model")
    written = SimpleNamespace(description=description, path=Path("model.onnx"))
    examples = [Example(torch.zeros(3, 32, 32, dtype=torch.uint8), "a", truth)]
    for name, value in {
        "read_examples": lambda data: examples,
        "load_trained": lambda path, options: trained,
        "replace": lambda trained, exportable: trained,
        "write_method": lambda *words: [written],
        "describe": lambda description: {},
    }.items():
        monkeypatch.setattr(perception_module, name, value)
    content, _ = perception(trained, SimpleNamespace(num_classes=COUNT), Path())  # type: ignore[arg-type]
    assert len(content["classes"]) == COUNT
    assert len(content["examples"]) == 1
    if build is detector:
        assert len(content["colours"]) == 254  # 0 is the background, 255 is ignored
        assert len({tuple(one) for one in content["colours"]}) > 200


def test_examples_are_named_without_folders() -> None:
    batch = {"image": torch.zeros(1, 3, 4, 4, dtype=torch.uint8), "path": ["/home/someone/secret/7.png"]}
    data = SimpleNamespace(prepare_data=lambda: None, setup=lambda stage: None, test_dataloader=lambda: [batch])
    (example,) = as_data(read_examples(data))  # type: ignore[arg-type]
    assert example["name"] == "7.png"


def diffusion(schedule: NoiseSchedule, sampling: Sampling, prediction: Any = "eps") -> DDPM:
    """Return a small diffusion model."""
    network = DenoisingUNet((1, 8, 8), base_channels=8, multipliers=(1,), blocks=1, attention=())
    return DDPM((1, 8, 8), network=network, schedule=schedule, objective=Objective(prediction), sampling=sampling)


def test_rectified_flow_has_its_own_sampler() -> None:
    model = diffusion(RectifiedFlow(40), Sampling(sampler="flow_heun", steps=5, shift=3.0), "flow")
    tables = sampling_tables(model)
    assert next(iter(tables["samplers"])) == "flow_heun"
    assert "heun" not in tables["samplers"]  # whose first step divides by alpha, here 0
    assert len(tables["samplers"]["flow_heun"][5]) == len(tables["own"]) == 9
    times, own = ([row["t"] for row in rows] for rows in (tables["samplers"]["flow_heun"][5], tables["own"]))
    assert times != own  # the run shifts its times


@needs_node
@pytest.mark.parametrize("sampler", ["ddim", "heun"])
def test_forward_process_is_at_the_time_of_the_state(sampler: Any) -> None:
    """The state after k evaluations is at the time of evaluation k + 1; the last one is without noise."""
    schedule = CosineSchedule(40)
    sampling = Sampling(sampler=sampler, steps=4, spacing="uniform")
    rows = sampling_tables(diffusion(schedule, sampling))["own"]
    body = "return data.rows.concat([0]).map((_, count) => levelAfter(data.rows, count, data.schedule));"
    levels = [schedule.at(t) for t in range(40)]
    data = {"rows": rows, "schedule": {"alphas": [one[0] for one in levels], "sigmas": [one[1] for one in levels]}}
    found = evaluate("sampler", body, data)
    assert len(rows) == (4 if sampler == "ddim" else 7)
    pairs = sampling.pairs(schedule)
    # Heun's first evaluation of a step makes the state of t_prev, which its second one corrects.
    ahead = [t_prev for _, t_prev in pairs for _ in range(1 if sampler == "ddim" or t_prev == -1 else 2)]
    states = [pairs[0][0], *ahead]
    assert [one["t"] for one in found] == [*states[:-1], None]
    assert [one["alpha"] for one in found[:-1]] == [levels[int(t)][0] for t in states[:-1]]
    assert (found[-1]["alpha"], found[-1]["sigma"]) == (1, 0)


def random_boxes(count: int, side: float, generator: torch.Generator) -> torch.Tensor:
    """Return boxes in an image of side 1, with sides of up to a size."""
    corners = torch.rand(count, 2, generator=generator) * (1 - side)
    return torch.cat([corners, corners + side * (0.3 + 0.7 * torch.rand(count, 2, generator=generator))], 1)


@needs_node
@pytest.mark.parametrize("seed", range(3))
def test_default_boxes_are_matched_as_in_training(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    default_boxes, boxes = random_boxes(300, 0.4, generator), random_boxes(6, 0.4, generator)
    boxes[1] = boxes[0]  # which cannot have the same default box
    data = {"references": default_boxes.tolist(), "boxes": boxes.tolist()}
    found = evaluate("boxes", "return RULES.above.match(data.references, data.boxes, 0.5);", data)
    expected = (assign(default_boxes, boxes) >= 0).nonzero().flatten()
    assert sorted(found) == expected.tolist()


@needs_node
def test_rules_differ_at_their_threshold() -> None:
    references = [[0, 0, 10, 10], [0, 0, 10, 5], [0, 0, 10, 4]]  # IoU 1, 0.5 and 0.4 with the first one
    body = "return ['above', 'at_least', 'centre'].map((rule) => RULES[rule].match(data, [data[0]], 0.5));"
    assert evaluate("boxes", body, references) == [[0], [0, 1], [0]]
    low = "return RULES.at_least.match(data, [[0, 0, 10, 1], [50, 50, 60, 60]], 0.5);"
    assert evaluate("boxes", low, references) == [2]  # the best one of the first box; none overlaps the second


@pytest.mark.parametrize("inputs", [("x", "t", "text", "text_mask"), ("x", "t", "low", "low_t")])
def test_frozen_encoders_and_super_resolution_have_no_page(
    inputs: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    specs = [TensorSpec(name, "float32", (1,), "") for name in inputs]
    written = SimpleNamespace(description=SimpleNamespace(part="denoiser", inputs=specs), path=Path("model.onnx"))
    monkeypatch.setattr(generation_module, "write_method", lambda *words: [written])
    trained = SimpleNamespace(model=diffusion(CosineSchedule(), Sampling()))
    with pytest.raises(UsageError, match="has no page; see docs/guides/playground.md"):
        generation(trained, SimpleNamespace(), Path())  # type: ignore[arg-type]
