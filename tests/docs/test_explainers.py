"""The mathematics of the explainers equals that of torch, torchvision and the project."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence
from torch.nn import functional as F
from torchvision.models.detection._utils import Matcher
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import box_iou, nms

from darkroom.lightning_modules.autoencoding import vae
from darkroom.lightning_modules.detection.metrics import COCOScores, average_precisions
from darkroom.lightning_modules.detection.ssd import assign
from darkroom.lightning_modules.diffusion import CosineSchedule, LinearSchedule, ZeroTerminalSNR
from darkroom.lightning_modules.diffusion.sampling import samplers
from darkroom.lightning_modules.diffusion.sampling.samplers import X0Prediction
from darkroom.lightning_modules.diffusion.sampling.times import time_pairs
from darkroom.lightning_modules.segmentation.upsampling import FixedUpsampling, bilinear_kernel
from tests.docs.javascript import NODE, RUNS, evaluate

pytestmark = [pytest.mark.skipif(not RUNS, reason="neither Node nor Chromium here")]
if not NODE:
    pytestmark.append(pytest.mark.slow)  # starts Chromium

# --- convolutions -----------------------------------------------------------------------------------------------------


def settings(transposed: bool) -> list[dict[str, Any]]:
    names = ("size", "kernel", "stride", "padding", "dilation")
    grid = itertools.product((2, 5, 8), (1, 2, 3, 5), (1, 2, 3), (0, 1, 2), (1, 2))
    every = [dict(zip(names, values, strict=True), transposed=transposed) for values in grid]
    if transposed:  # what the figure allows: the border is made of zeros, never cropped, and the output has cells
        reach = [one["dilation"] * (one["kernel"] - 1) for one in every]
        out = [
            (one["size"] - 1) * one["stride"] - 2 * one["padding"] + r + 1 for one, r in zip(every, reach, strict=True)
        ]
        return [one for one, r, side in zip(every, reach, out, strict=True) if one["padding"] <= r and side > 0]
    return [one for one in every if one["dilation"] * (one["kernel"] - 1) < one["size"] + 2 * one["padding"]]


@pytest.mark.parametrize("transposed", [False, True])
def test_convolutions_equal_torch(transposed: bool) -> None:
    cases, expected = [], []
    layer = F.conv_transpose2d if transposed else F.conv2d
    for setting in settings(transposed):
        x, kernel = torch.randn(setting["size"], setting["size"]), torch.randn(setting["kernel"], setting["kernel"])
        options = {name: setting[name] for name in ("stride", "padding", "dilation")}
        expected.append(layer(x[None, None].double(), kernel[None, None].double(), **options)[0, 0])
        cases.append([x.tolist(), kernel.tolist(), setting])
    function = """cases => cases.map(([x, kernel, setting]) => {
      const { outputSize, transposedSize, convolve } = explainers.convolution;
      return [(setting.transposed ? transposedSize : outputSize)(setting), convolve(x, kernel, setting)];
    })"""
    for setting, (size, values), truth in zip(cases, evaluate(function, cases), expected, strict=True):
        assert size == len(truth), setting
        torch.testing.assert_close(torch.tensor(values, dtype=torch.float64), truth)


def test_linear_layer_equals_pointwise_convolution() -> None:
    """The lines of code on the page are right, and the figure computes the same."""
    layer, conv, x = torch.nn.Linear(3, 2), torch.nn.Conv2d(3, 2, kernel_size=1), torch.randn(1, 3, 4, 4)
    conv.load_state_dict({"weight": layer.weight[:, :, None, None], "bias": layer.bias})
    assert torch.allclose(conv(x), layer(x.movedim(1, -1)).movedim(-1, 1), atol=1e-6)
    data = [layer.weight.tolist(), x[0, :, 1, 2].tolist()]
    y = evaluate("([weight, x]) => explainers.convolution.linear(weight, x)", data)
    torch.testing.assert_close(torch.tensor(y) + layer.bias, conv(x)[0, :, 1, 2])


@pytest.mark.parametrize(("size", "stride"), [(4, 2), (3, 2), (8, 4), (7, 4), (2, 2), (16, 8)])
def test_upsampling_equals_project(size: int, stride: int) -> None:
    x = torch.randn(6)
    function = """({ x, size, stride }) => {
      const kernel = explainers.convolution.bilinearKernel(size, stride);
      return [kernel, explainers.convolution.upsample(x, kernel, stride)];
    }"""
    kernel, values = evaluate(function, {"x": x.tolist(), "size": size, "stride": stride})
    truth = bilinear_kernel(size, stride)
    torch.testing.assert_close(torch.tensor(kernel), truth)
    # Every row of a map that is constant down its columns: weights of the columns sum to 1 in its middle.
    wide = FixedUpsampling(truth, stride)(x.expand(1, 1, 6, 6))[0, 0]
    if size == 2 * stride:
        torch.testing.assert_close(torch.tensor(values), wide[len(wide) // 2])
    line = F.conv_transpose1d(x[None, None], truth[None, None], stride=stride)[0, 0]
    torch.testing.assert_close(torch.tensor(values), line)


# --- boxes ------------------------------------------------------------------------------------------------------------


def random_boxes(count: int, side: float = 100.0) -> Tensor:
    corners = torch.rand(count, 2, dtype=torch.float64) * side
    return torch.cat([corners, corners + 5 + torch.rand(count, 2, dtype=torch.float64) * side / 2], 1)


def test_iou_equals_torchvision() -> None:
    a, b = random_boxes(12), random_boxes(9)
    function = "([a, b]) => a.map((one) => b.map((other) => explainers.boxes.iou(one, other)))"
    found = torch.tensor(evaluate(function, [a.tolist(), b.tolist()]), dtype=torch.float64)
    torch.testing.assert_close(found, box_iou(a, b))


def test_nms_equals_torchvision() -> None:
    cases = [(random_boxes(30), torch.rand(30, dtype=torch.float64), step / 10) for step in range(10)]
    function = "cases => cases.map((x) => explainers.boxes.suppress(...x).map((turn) => turn.kept))"
    found = evaluate(function, [[boxes.tolist(), scores.tolist(), limit] for boxes, scores, limit in cases])
    assert found == [nms(boxes, scores, limit).tolist() for boxes, scores, limit in cases]


def test_every_box_is_kept_or_suppressed_once() -> None:
    boxes = random_boxes(30)
    function = "(boxes) => explainers.boxes.suppress(boxes, boxes.map((_, i) => i), 0.2)"
    turns = evaluate(function, boxes.tolist())
    assert sorted(i for turn in turns for i in [turn["kept"], *turn["suppressed"]]) == list(range(30))


def test_anchors_equal_torchvision() -> None:
    grid = {"width": 240, "height": 160, "stride": 40, "sizes": [32, 64], "ratios": [0.5, 1, 2]}
    found = torch.tensor(evaluate("(grid) => explainers.boxes.anchorGrid(grid)", grid))
    generator = AnchorGenerator(((32, 64),), ((0.5, 1.0, 2.0),))
    image = ImageList(torch.zeros(1, 3, 160, 240), [(160, 240)])
    truth = generator(image, [torch.zeros(1, 1, 4, 6)])[0] + 20  # torchvision's cells start at the corner
    order = lambda boxes: boxes[np.lexsort(boxes.round().numpy().T)]  # noqa: E731 (the order within a cell differs)
    torch.testing.assert_close(order(found), order(truth), atol=0.5, rtol=0)  # torchvision rounds to pixels


def test_matching_equals_rules_of_detectors() -> None:
    cases = [(random_boxes(60), random_boxes(count)) for count in (1, 2, 5) for _ in range(4)]
    function = """cases => cases.map(([anchors, truths]) => [
      explainers.boxes.matchAnchors(anchors, truths, 0.7, 0.3),
      explainers.boxes.matchDefaultBoxes(anchors, truths, 0.5),
    ])"""
    matcher = Matcher(0.7, 0.3, allow_low_quality_matches=True)
    found = evaluate(function, [[anchors.tolist(), truths.tolist()] for anchors, truths in cases])
    for (anchors, truths), (faster_rcnn, ssd) in zip(cases, found, strict=True):
        assert faster_rcnn == matcher(box_iou(truths, anchors)).tolist()
        assert ssd == assign(anchors, truths).tolist()


# --- average precision ------------------------------------------------------------------------------------------------


def test_average_precision_equals_metrics() -> None:
    generator = np.random.default_rng(0)
    cases = []
    for _ in range(12):
        right = generator.random(int(generator.integers(1, 25))) < 0.6
        cases.append((right.astype(int).tolist(), int(right.sum() + generator.integers(1, 4))))
    function = """cases => cases.map(([right, objects]) => {
      const { elevenPoint, allPoint, hundredOnePoint } = explainers.averagePrecision;
      return [allPoint, elevenPoint, hundredOnePoint].map((of) => of(right, objects));
    })"""
    for (right, objects), found in zip(cases, evaluate(function, cases), strict=True):
        voc = average_precisions(torch.tensor(right, dtype=torch.bool), objects)
        assert found == pytest.approx([*voc, coco_precision(right, objects)], abs=1e-6)


def coco_precision(right: list[int], objects: int) -> float:
    """Return COCO's AP50 of a list of detections, best first: each one lies on an object of its own or on none."""
    places = torch.arange(max(objects, len(right)) + len(right)) * 20.0
    hits = iter(range(objects))
    misses = iter(range(max(objects, len(right)), len(places)))
    chosen = places[[next(hits) if hit else next(misses) for hit in right]]
    as_boxes = lambda x: torch.stack([x, torch.zeros_like(x), x + 10, torch.full_like(x, 10)], 1)  # noqa: E731
    metric = COCOScores(1)
    labels = torch.ones(len(right), dtype=torch.long)
    scores = torch.linspace(0.9, 0.1, len(right))
    metric.update(
        [{"boxes": as_boxes(chosen), "labels": labels, "scores": scores}],
        [{"boxes": as_boxes(places[:objects]), "labels": torch.ones(objects, dtype=torch.long)}],
    )
    return metric.compute()["AP50"].item()


# --- normal distributions ---------------------------------------------------------------------------------------------


def test_kl_equals_torch_distributions() -> None:
    cases = [(0.0, 1.0, 0.0, 1.0), (1.5, 0.4, -1.0, 2.0), (-2.0, 3.0, 0.5, 0.2)]
    function = """cases => cases.map(([a, b, c, d]) => {
      const [q, p] = [{ mean: a, sd: b }, { mean: c, sd: d }];
      let integral = 0;
      for (let x = -40; x < 40; x += 0.002) integral += explainers.gaussians.klIntegrand(x, q, p) * 0.002;
      return [explainers.gaussians.kl(q, p), integral, explainers.gaussians.kl(q, { mean: 0, sd: 1 })];
    })"""
    for (a, b, c, d), (closed, integral, standard) in zip(cases, evaluate(function, cases), strict=True):
        truth = kl_divergence(Normal(a, b), Normal(c, d)).item()
        assert closed == pytest.approx(truth, rel=1e-6, abs=1e-6)
        assert integral == pytest.approx(truth, rel=1e-4, abs=1e-4)
        to_prior = vae.kl_divergence(torch.tensor(a), torch.tensor(2 * math.log(b))).item()
        assert standard == pytest.approx(to_prior, rel=1e-6, abs=1e-6)


def test_gradients_equal_autograd() -> None:
    noise = torch.randn(50, dtype=torch.float64)
    mean, sd = torch.tensor(0.7, dtype=torch.float64), torch.tensor(1.3, dtype=torch.float64)
    mean.requires_grad_()
    sd.requires_grad_()
    z = mean + sd * noise
    (z - 2).square().mean().backward()
    log_prob = Normal(mean, sd).log_prob(z.detach())
    score = torch.autograd.grad(((z.detach() - 2).square() * log_prob).mean(), (mean, sd))
    function = """(noise) => {
      const found = explainers.gaussians.gradients(0.7, 1.3, noise, (z) => (z - 2) ** 2, (z) => 2 * (z - 2));
      return [found.path.mean.mean, found.path.sd.mean, found.score.mean.mean, found.score.sd.mean];
    }"""
    assert mean.grad is not None
    assert sd.grad is not None
    truth = [mean.grad.item(), sd.grad.item(), *(x.item() for x in score)]
    assert evaluate(function, noise.tolist()) == pytest.approx(truth)


def test_noise_is_normal_and_seeded() -> None:
    function = (
        "(seed) => { const next = explainers.gaussians.normal(seed); return Array.from({ length: 4000 }, next); }"
    )
    values = evaluate(function, 3)
    assert values == evaluate(function, 3)
    noise = torch.tensor(values)
    assert noise.mean().abs() < 0.05
    assert noise.std() == pytest.approx(1, abs=0.05)


# --- diffusion --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [100, 1000])
def test_schedules_equal_project(steps: int) -> None:
    function = """(steps) => {
      const { linear, cosine, zeroTerminal, logSNR } = explainers.schedules;
      const all = [linear(steps), cosine(steps), zeroTerminal(linear(steps)), zeroTerminal(cosine(steps))];
      return all.map((alphaBars) => [alphaBars, alphaBars.map(logSNR)]);
    }"""
    linear, cosine = LinearSchedule(steps), CosineSchedule(steps)
    truths = [linear, cosine, ZeroTerminalSNR(linear), ZeroTerminalSNR(cosine)]
    for truth, (alpha_bars, log_snr) in zip(truths, evaluate(function, steps), strict=True):
        expected = [truth.at(t)[0] ** 2 for t in range(steps)]
        assert alpha_bars == pytest.approx(expected, rel=1e-9, abs=1e-12)
        finite = steps - truth.ends_in_noise
        assert log_snr[:finite] == pytest.approx([2 * truth.half_log_snr(t) for t in range(finite)], rel=1e-6, abs=1e-6)


def test_time_pairs_equal_project() -> None:
    counts = [1, 2, 3, 7, 16, 48, 64, 100, 1000]
    found = evaluate("(counts) => counts.map((count) => explainers.samplers.timePairs(1000, count))", counts)
    schedule = LinearSchedule(1000)
    assert found == [[list(pair) for pair in time_pairs(schedule, count)] for count in counts]


MIXTURE = [
    {"weight": 0.5, "mean": [1.5, 0.0], "sd": 0.3},
    {"weight": 0.3, "mean": [-1.0, 1.0], "sd": 0.2},
    {"weight": 0.2, "mean": [0.0, -1.5], "sd": 0.4},
]


def log_density(x: Tensor, alpha: float, sigma: float) -> Tensor:
    """Return the log density of x_t (N, 2), if x_0 is from the mixture."""
    parts = []
    for part in MIXTURE:
        sd = math.sqrt((alpha * part["sd"]) ** 2 + sigma**2)
        normal = Normal(alpha * torch.tensor(part["mean"], dtype=x.dtype), sd)
        parts.append(normal.log_prob(x).sum(1) + math.log(part["weight"]))
    return torch.stack(parts).logsumexp(0)


def denoise(x: Tensor, t: float, schedule: LinearSchedule) -> Tensor:
    """Return E[x_0 | x_t], by autograd from the score (Tweedie's formula)."""
    alpha, sigma = schedule.at(t)
    x = x.detach().requires_grad_()
    (score,) = torch.autograd.grad(log_density(x, alpha, sigma).sum(), x)
    return (x.detach() + sigma**2 * score) / alpha


def test_denoiser_of_mixture_is_exact() -> None:
    schedule, x = LinearSchedule(1000), torch.randn(8, 2, dtype=torch.float64)
    function = """([mixture, points]) => {
      const alphaBars = explainers.schedules.linear(1000);
      return [0, 50, 400, 999].map((t) => points.map((x) => {
        const [alpha, sigma] = explainers.schedules.at(alphaBars, t);
        const { logDensity } = explainers.samplers.posterior(mixture, x, alpha, sigma);
        return [logDensity, ...explainers.samplers.denoise(mixture, x, alpha, sigma)];
      }));
    }"""
    for t, found in zip((0, 50, 400, 999), evaluate(function, [MIXTURE, x.tolist()]), strict=True):
        values = torch.tensor(found, dtype=torch.float64)
        torch.testing.assert_close(values[:, 0], log_density(x, *schedule.at(t)))
        torch.testing.assert_close(values[:, 1:], denoise(x, t, schedule), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(("sampler", "eta"), [("ddim", 0.0), ("ddim", 0.5), ("ddim", 1.0), ("ancestral", 0.0)])
def test_sampler_steps_equal_project(sampler: str, eta: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole paths of twelve steps, with the same noise."""
    schedule, pairs = LinearSchedule(1000), time_pairs(LinearSchedule(1000), 12)
    start = torch.randn(5, 2, dtype=torch.float64)
    noises = torch.randn(5, 12, 2, dtype=torch.float64)
    step = "ancestralStep" if sampler == "ancestral" else f"(...x) => samplers.ddimStep(...x.slice(0, 4), {eta}, x[4])"
    function = f"""([mixture, start, noises]) => {{
      const {{ samplers, schedules }} = explainers;
      const step = {"samplers." if sampler == "ancestral" else ""}{step};
      const pairs = samplers.timePairs(1000, 12);
      return start.map((x, i) => {{
        const values = noises[i].flat();
        return samplers.path(mixture, schedules.linear(1000), pairs, x, step, () => values.shift());
      }});
    }}"""
    found = torch.tensor(evaluate(function, [MIXTURE, start.tolist(), noises.tolist()]), dtype=torch.float64)
    states, drawn = [start], iter(noises.unbind(1))
    if eta or sampler == "ancestral":
        monkeypatch.setattr(samplers, "sample_noise", lambda *_, **__: next(drawn)[:, :, None, None])

    def predict(x: Tensor, t: float) -> X0Prediction:
        return X0Prediction(denoise(x[..., 0, 0], t, schedule)[:, :, None, None])

    def record(step: samplers.Step) -> None:
        states.append(step.x[..., 0, 0])

    options = {"eta": eta} if sampler == "ddim" else {}
    getattr(samplers, sampler)(predict, start[:, :, None, None], pairs, schedule, on_step=record, **options)
    torch.testing.assert_close(found, torch.stack(states, 1), atol=1e-6, rtol=1e-6)
