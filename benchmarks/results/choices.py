"""Measure the effect of each choice of a diffusion model: ``python -m benchmarks.results.choices --out FILE``.

One choice at a time is changed in ``configs/diffusion/ddpm_conditional.yaml``: what the network predicts, the weights of
the loss and the noise schedule, each with a fit of its own; sampler and guidance, on the fit of the config. A schedule that
is made for a prediction, weight or distribution of times comes with it. All are tested on the same number of samples. A
stopped command resumes with the same command line. Other options go to every fit and test.
"""

import argparse
import itertools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.results.commands import newest_run, read_newest_test, run_darkroom
from darkroom.callbacks.plotting.drawing import Plot
from darkroom.callbacks.plotting.style import COLOURS, WIDTHS, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CONFIG = ("--config", "configs/diffusion/ddpm_conditional.yaml", "--config", "configs/trainer/bf16.yaml")
METRICS = {"cnn_fid": "cnn_fid, lower is better", "label_accuracy": "samples of the class, %"}


@dataclass(frozen=True)
class Choice:
    """One change of the config.

    Args:
        group: what is chosen.
        name: of the choice.
        arguments: of the command line; () for what the config has.
        fits: the change needs a fit of its own.
    """

    group: str
    name: str
    arguments: tuple[str, ...] = ()
    fits: bool = True


_P2 = ("--model.objective.loss_weight", "P2")
_UNWEIGHTED = ("--model.objective.loss_weight", "Unweighted")
_HEUN = ("--model.sampling.sampler", "heun", "--model.sampling.steps", "10")  # 19 evaluations of the network
CHOICES = (
    Choice("prediction", "v (config)"),
    Choice("prediction", "noise", ("--model.objective.prediction", "eps")),
    Choice("prediction", "image", ("--model.objective.prediction", "x0")),
    Choice("weights of the loss", "min-SNR (config)"),
    Choice("weights of the loss", "P2", _P2),
    Choice("weights of the loss", "soft min-SNR", (*_P2, "--model.objective.loss_weight.k", "5")),
    Choice("weights of the loss", "none (error of v)", _UNWEIGHTED),
    Choice("noise schedule", "cosine (config)"),
    Choice("noise schedule", "linear", ("--model.schedule", "LinearSchedule")),
    Choice("noise schedule", "linear, zero terminal SNR", ("--model.schedule", "ZeroTerminalSNR", *_UNWEIGHTED)),
    Choice(
        "noise schedule",
        "rectified flow",
        (
            *("--model.schedule", "RectifiedFlow", "--model.objective.prediction", "flow", *_UNWEIGHTED),
            *("--model.objective.times", "LogitNormalTimes"),
        ),
    ),
    Choice(
        "noise schedule",
        "EDM, Heun, 10 steps",
        (
            *("--model.schedule", "EDMSchedule", "--model.objective.prediction", "edm", *_UNWEIGHTED),
            *("--model.objective.times", "LogNormalSigma", *_HEUN),
        ),
    ),
    Choice("sampler", "DDIM, 20 steps (config)"),
    Choice("sampler", "DDIM, 5 steps", ("--model.sampling.steps", "5"), fits=False),
    Choice("sampler", "DPM-Solver++, 20 steps", ("--model.sampling.sampler", "dpm_solver++"), fits=False),
    Choice("sampler", "Heun, 10 steps", _HEUN, fits=False),
    Choice("sampler", "ancestral, 20 steps", ("--model.sampling.sampler", "ancestral"), fits=False),
    Choice("guidance", "2 (config)"),
    Choice("guidance", "1 (no guidance)", ("--model.sampling.guidance", "1"), fits=False),
    Choice("guidance", "4", ("--model.sampling.guidance", "4"), fits=False),
)


def measure(choice: Choice, runs_dir: Path, extra: list[str]) -> dict[str, float]:
    """Return the test scores of a choice; fit and test it unless its scores are there.

    Raises:
        SystemExit: ``runs_dir`` has scores with other options.
    """
    fit_arguments = choice.arguments if choice.fits else ()
    fitted, tested = _name(fit_arguments), _name(choice.arguments)
    scores = runs_dir / f"{tested}.json"
    if scores.is_file():
        found = json.loads(scores.read_text(encoding="utf-8"))
        if found["options"] != extra:
            raise SystemExit(
                f"{scores} has scores with the options {found['options']}; --runs_dir must be another folder"
            )
        return found["scores"]
    common = [*extra, "--runs_dir", str(runs_dir), "--trainer.enable_progress_bar", "false"]
    whole = runs_dir / f"{fitted}.fitted"  # a stopped fit has checkpoints too
    if not whole.is_file():
        resume = ["--ckpt_path", "last"] if any((runs_dir / fitted).glob("*/checkpoints/last.ckpt")) else []
        run_darkroom("fit", *CONFIG, *fit_arguments, *common, "--experiment", fitted, *resume)
        whole.touch()
    run = newest_run(runs_dir / fitted)
    words = [*CONFIG, *choice.arguments, *common, "--experiment", fitted]
    run_darkroom("test", *words, "--ckpt_path", str(run / "checkpoints" / "last.ckpt"))
    metrics = read_newest_test(run)
    scores.write_text(json.dumps({"options": extra, "scores": metrics}, indent=1), encoding="utf-8")
    return metrics


def _name(arguments: tuple[str, ...]) -> str:
    """Return the experiment of a change: the last parts of its arguments."""
    return "-".join(["choice", *(word.split(".")[-1].strip("-").lower() for word in arguments or ("config",))])


def draw(scores: list[tuple[Choice, dict[str, float]]]) -> Plot:
    """Draw a bar for each choice and metric; the config's own are darker."""
    from matplotlib.figure import Figure

    width = WIDTHS["iccv"]
    with styled(width):
        figure = Figure(figsize=(width, 0.24 * len(scores) + 1.2), layout="constrained")
        left, right = figure.subplots(1, 2, sharey=True)
        for plot, (metric, label) in zip((left, right), METRICS.items(), strict=True):
            _draw_bars(plot, scores, metric, label)
        places = _places([choice for choice, _ in scores])
        left.set_yticks(places, [choice.name for choice, _ in scores])
        left.invert_yaxis()
        for place, (choice, _) in zip(places, scores, strict=True):
            if not choice.arguments:
                left.annotate(
                    choice.group, (0, place - 0.62), xycoords=("axes fraction", "data"), weight="bold", va="bottom"
                )
    return Plot(figure)


def _places(choices: list[Choice]) -> list[float]:
    """Return the place of each bar on the axis, with a gap before each group."""
    gaps = [0, *(1.1 * (one.group != other.group) for one, other in itertools.pairwise(choices))]
    return [index + sum(gaps[: index + 1]) for index in range(len(choices))]


def _draw_bars(plot: "Axes", scores: list[tuple[Choice, dict[str, float]]], metric: str, label: str) -> None:
    scale = 100 if metric == "label_accuracy" else 1
    values = [scale * found[metric] for _, found in scores]
    colours = [COLOURS[5] if choice.arguments else COLOURS[0] for choice, _ in scores]
    bars = plot.barh(_places([choice for choice, _ in scores]), values, color=colours, height=0.72)
    plot.bar_label(bars, [f"{value:.1f}" for value in values], padding=3)
    plot.set_xlabel(label)
    plot.set_xlim(0, 1.15 * max(values))
    plot.grid(axis="y", visible=False)


def table(scores: list[tuple[Choice, dict[str, float]]]) -> str:
    """Return the scores as Markdown."""
    lines = ["| choice | | `cnn_fid` | samples of the class |", "|---|---|---|---|"]
    for choice, found in scores:
        group = "" if choice.arguments else choice.group
        lines.append(f"| {group} | {choice.name} | {found['cnn_fid']:.1f} | {found['label_accuracy']:.1%} |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    """Fit, test, print the table and draw the chart."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.results.choices", description=__doc__)
    parser.add_argument("--runs_dir", type=Path, default=Path("runs"))
    parser.add_argument("--out", type=Path, required=True, help="chart, as PNG, PDF and SVG")
    arguments, extra = parser.parse_known_args(argv)
    scores = [(choice, measure(choice, arguments.runs_dir, extra)) for choice in CHOICES]
    print(table(scores))
    draw(scores).save(arguments.out.with_suffix(""))


if __name__ == "__main__":
    main()
