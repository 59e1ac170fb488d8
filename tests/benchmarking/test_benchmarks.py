"""Benchmarks refer to existing configs and classes; their numbers are not tested."""

import argparse
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from torchvision.ops import box_iou

import benchmarks.entries  # noqa: F401 (registers the entries)
from benchmarks import profile_steps
from benchmarks.results import export_table, segmentation_ladder
from benchmarks.results.commands import CommandFailedError
from benchmarks.results.same_budget import __main__ as same_budget
from benchmarks.results.same_budget.validation import FILE, TimeValidation, limit_batches
from benchmarks.speed import classification, detection, generation, networks, processes
from benchmarks.speed.harness import ENTRIES, Options, Side, compare, descend, side_of
from tests.conftest import CONFIGS


def test_compared_methods_have_configs() -> None:
    assert segmentation_ladder.main
    for techniques in same_budget.FAMILIES.values():
        for entry in techniques.values():
            assert (CONFIGS / f"{entry.config}.yaml").is_file()


def test_compared_dcgan_has_the_recipe_of_pytorchs_example(darkroom: Callable) -> None:
    entry = same_budget.FAMILIES["generation"]["the same by the recipe of PyTorch's example"]
    configs = ("--config", CONFIGS / f"{entry.config}.yaml", "--config", CONFIGS / "data/images/fashion_mnist.yaml")
    printed = darkroom("fit", *configs, "--data.root", ".", *entry.arguments, "--print_config").out
    options = yaml.safe_load(printed)["model"]["init_args"]
    wanted = {"prior": "normal", "latent_dim": 100, "ema": None, "discriminator_norm": "batch", "r1": 0.0}
    assert {name: options[name] for name in wanted} == wanted
    for network in ("generator", "discriminator"):
        adam = options["optim"][f"{network}_optimizer"]["init_args"]
        assert (adam["lr"], adam["betas"]) == (0.0002, [0.5, 0.999])
    assert options["optim"]["lr_scheduler"] is None


@pytest.mark.parametrize(
    ("config", "count"), [("segmentation/camvid", 11), ("segmentation/dubai_aerial", 5), ("images/fashion_mnist", 10)]
)
def test_classes_are_those_of_the_datamodule(config: str, count: int) -> None:
    """CamVid knows its classes in code, Dubai's config lists them."""
    assert same_budget.count_classes(CONFIGS / f"data/{config}.yaml", "folder") == count


def test_data_of_a_package_needs_no_folder() -> None:
    assert same_budget.count_classes(CONFIGS / "data/images/digits.yaml", None) == 10


def test_given_steps_are_not_timed_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(same_budget, "run_darkroom", pytest.fail)
    length = same_budget.choose_length([], tmp_path, 8, argparse.Namespace(steps=270, minutes=3), [])
    words = dict(zip(length[::2], length[1::2], strict=True))
    assert words["--trainer.max_steps"] == "270"
    assert words["--trainer.val_check_interval"] == "45"
    assert "--trainer.limit_val_batches" not in words


@pytest.mark.parametrize("error", [CommandFailedError("darkroom fit\nout of memory"), KeyError("mIoU")])
def test_failing_method_does_not_end_the_table(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def run(family: str, name: str, *others: object) -> dict[str, str]:
        if name == "DeconvNet":
            raise error
        return {"method": name, "steps": "6"}

    monkeypatch.setattr(same_budget, "run", run)
    words = ["same_budget", "--data", "d.yaml", "--root", ".", "--techniques", "DeconvNet", "FCN-8s"]
    monkeypatch.setattr("sys.argv", words)
    with pytest.raises(SystemExit):
        same_budget.main()
    printed = capsys.readouterr()
    assert "DeconvNet failed" in printed.err
    assert printed.out.splitlines()[-3:] == ["| method | steps |", "|---|---|", "| FCN-8s | 6 |"]


def test_validations_take_a_quarter_of_the_budget(tmp_path: Path) -> None:
    class Loops:
        log_dir = str(tmp_path)

    timing, trainer = TimeValidation(), Loops()
    timing.on_validation_start(trainer, None)  # type: ignore[arg-type]
    for _ in range(2):
        time.sleep(0.05)
        timing.on_validation_batch_end(trainer)  # type: ignore[arg-type]
    time.sleep(0.2)  # metrics over all samples
    timing.on_validation_end(trainer, None)  # type: ignore[arg-type]
    assert 0.05 <= json.loads((tmp_path / FILE).read_text())["seconds"] < 0.15
    (tmp_path / FILE).write_text('{"seconds": 1.5}')
    assert limit_batches(tmp_path, budget=180, validations=6) == 5  # 6 x 5 x 1.5 s are a quarter of 180 s
    assert limit_batches(tmp_path, budget=1, validations=6) == 1


def test_every_segmentation_method_has_a_speed_benchmark() -> None:
    assert {"segmentation_steps", "segmentation_evaluation", "fcn_resnet50_step", "tiled_inference"} <= ENTRIES.keys()
    assert all(model.num_classes == networks.WORLD for model in networks._techniques().values())


def test_profiled_methods_have_configs() -> None:
    assert all((CONFIGS / f"{config}.yaml").is_file() for config in profile_steps.METHODS.values())
    assert {"fcn", "yolo", "vae", "dcgan", "ddpm", "imagen"} <= profile_steps.METHODS.keys()


def test_operations_above_the_limit_are_bold_unless_products() -> None:
    own = [("mkldnn_convolution", 0.5), ("argmax", 0.12), ("bmm", 0.11), ("copy_", 0.09)]
    assert profile_steps.format_shares(own, count=3) == "mkldnn_convolution 50%, **argmax 12%**, bmm 11%"
    assert profile_steps.format_shares([("upsample_bilinear2d", 0.2)], count=1) == "**upsample_bilinear2d 20%**"


def test_page_of_profiles_states_command_machine_and_load(tmp_path: Path) -> None:
    file = tmp_path / "profiles.md"
    profile_steps.write_page(file, ["--only", "vae"], ["32-true"], ["| vae | 32-true |"], 1.5)
    page = file.read_text()
    assert f"{profile_steps.HEADER}\n| vae | 32-true |\n" in page
    assert "python -m benchmarks.profile_steps --only vae`" in page
    assert "32-true; Python" in page
    assert "used 1.50 of" in page


def test_profile_takes_the_time_of_operations_without_those_they_call() -> None:
    a = torch.rand(64, 64)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        torch.linalg.multi_dot([a, a, a])
    own = dict(profile_steps.shares(profiler))
    assert sum(own.values()) == pytest.approx(1)
    assert own["mm"] > 0


def test_every_detector_has_a_speed_benchmark() -> None:
    assert {"detection_steps", "detection_inference", "selective_search", "detection_scores"} <= ENTRIES.keys()
    assert set(detection.LADDER) == {
        path.stem for path in (CONFIGS / "detection").glob("*.yaml") if "torch" not in path.stem
    }


def test_generative_methods_have_speed_benchmarks() -> None:
    from benchmarks.results import generation_ladder, score_floor

    assert {"vae_step", "dcgan_step", "score_cost"} <= ENTRIES.keys()
    assert generation_ladder.main
    assert score_floor.main
    public = sum(p.numel() for p in generation.PublicVAE().parameters())
    assert public == 3_937_635  # the same layers as a VAE with these channels


def test_diffusion_benchmark_has_size_of_diffusers_network() -> None:
    from benchmarks.speed import diffusion

    assert {"ddpm_step", "ddim_20", "guidance_pass", "checkpointing"} <= ENTRIES.keys()
    with torch.device("meta"):
        ours = diffusion.DenoisingUNet(diffusion.SHAPE)
        theirs = pytest.importorskip("diffusers").UNet2DModel(**diffusion.HO)
    assert [sum(p.numel() for p in network.parameters()) for network in (ours, theirs)] == [35_746_307] * 2


def test_imagen_benchmark_has_size_of_peer() -> None:
    from benchmarks.speed import imagen

    assert {"text_to_image_step", "super_resolution_step", "cascade_sampling", "embedding_cache"} <= ENTRIES.keys()
    with torch.device("meta"):
        builders = (imagen.base, imagen.upsampler, imagen.small_base)
        sizes = [sum(p.numel() for p in build(Options()).network.parameters()) for build in builders]
    assert sizes == [15_992_059, 29_793_287, 1_325_891]  # imagen-pytorch's have 16,009,336, 30,386,996 and 1,307,330


def test_sampler_arguments_are_parsed() -> None:
    from benchmarks.results.sampler_table import parsed

    assert parsed("ddim,spacing=quadratic,guidance=2") == ("ddim", {"spacing": "quadratic", "guidance": 2})
    for wrong in ("dddim", "ddim,space=quadratic"):
        with pytest.raises(argparse.ArgumentTypeError, match="unknown"):
            parsed(wrong)


def run_with(folder: Path, **columns: list[float]) -> Path:
    folder.mkdir()
    rows = [
        ",".join(["step", *columns]),
        *(f"{i},{','.join(map(str, row))}" for i, row in enumerate(zip(*columns.values(), strict=True))),
    ]
    (folder / "metrics.csv").write_text("\n".join(rows))
    return folder


def test_score_curves_refuse_what_they_would_leave_out(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    from benchmarks.results import score_curves

    runs = [str(run_with(tmp_path / str(i), **{"val/cnn_fid": [3.0, 2.0]})) for i in range(2)]
    out = ["--out", str(tmp_path / "it.png")]
    with pytest.raises(SystemExit):
        score_curves.main([*runs, "--names", "a", *out])
    assert "--names must be one per run, got 1 for 2 runs" in capsys.readouterr().err
    with pytest.raises(SystemExit, match=r"0/metrics.csv has no val/fid; --score must be one of val/cnn_fid"):
        score_curves.main([*runs, "--names", "a", "b", "--score", "val/fid", *out])
    with pytest.raises(SystemExit, match="gone/metrics.csv does not exist"):
        score_curves.main([str(tmp_path / "gone"), "--names", "a", *out])


def test_score_curves_write_values_and_vector_files(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    from benchmarks.results import score_curves

    run = str(run_with(tmp_path / "0", **{"val/cnn_fid": [3.0, 2.0]}))
    score_curves.main([run, "--names", "DCGAN", "--out", str(tmp_path / "it.png")])
    assert capsys.readouterr().out == "DCGAN; 1: 3; 2: 2\n"
    assert {".png", ".pdf", ".svg"} <= {path.suffix for path in tmp_path.glob("it.*")}
    assert {"DCGAN", "training steps", "val/cnn_fid"} <= set(
        re.findall(">([^<>\n]+)</text>", (tmp_path / "it.svg").read_text())
    )


def test_detection_ladder_names_all_detectors() -> None:
    from benchmarks.results.detection_ladder import accuracy_by_time

    plot = accuracy_by_time(["YOLO", "R-CNN"], [3.0, 90.0], {"VOC_AP50": [0.7, 0.5], "mAP": [0.4, 0.3]})
    axes = plot.figure.axes[0]
    assert [text.get_text() for text in axes.texts] == ["YOLO", "R-CNN"]
    assert axes.lines[0].get_xydata().tolist() == [[3.0, 0.7], [90.0, 0.5]]


def test_table_of_exports_is_rendered_from_its_rows() -> None:
    rows = export_table.read_rows(export_table.ROWS)
    assert rows
    assert {row.format for row in rows} <= set(export_table.FORMATS)
    guide = export_table.GUIDE.read_text(encoding="utf-8")
    assert export_table.insert(guide, export_table.render(rows)) == guide


def test_side_of_a_comparison_is_measured_alone() -> None:
    sides = [Side(name, lambda: None, 1) for name in ("ours", "theirs")]
    result = compare("work", sides, Options(rounds=1, side="theirs"))
    assert [row.name for row in result.rows] == ["theirs"]
    with pytest.raises(SystemExit, match="--side must be one of ours; theirs; got 'other'"):
        compare("work", sides, Options(rounds=1, side="other"))


def linear_side(name: str, width: int, rows: int, options: Options) -> Side:
    network = torch.nn.Linear(300, width)
    optimizer = torch.optim.SGD(network.parameters(), 0.1)
    step = descend(optimizer, lambda: network(torch.randn(rows, 300)).sum(), options)
    return side_of(name, [network], step, rows, options)


def test_work_of_peers_is_compared_with_ours() -> None:
    options = Options(rounds=1)
    ours, theirs = linear_side("ours", 40, 10, options), linear_side("theirs", 40, 10, options)
    wider, longer = linear_side("wider", 50, 8, options), linear_side("longer", 40, 20, options)

    def note(*sides: Side, peers: tuple[str, ...] = ()) -> str:
        return compare("work", list(sides), options, peers=peers).notes[-1]

    assert note(ours, theirs, wider, peers=("theirs",)).startswith("Equal work. ours: 12,040 parameters, 0.0 GFLOP, ")
    assert note(ours, theirs, wider, longer, peers=("wider", "longer")).startswith("Work differs: wider, longer. ")
    assert note(ours, longer).startswith("Work differs. ours")
    assert note(ours).startswith("ours: ")  # nothing to compare


def test_compiled_sides_are_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    compile_function = torch.compile
    monkeypatch.setattr(torch, "compile", lambda function: compile_function(function, backend="eager"))
    options, network = Options(compile=True), torch.nn.Linear(3, 4)
    calls = {"whole": network, "forward": network.forward, "function": lambda x: x @ network.weight.T}
    sides = [
        side_of(name, [network], lambda call=call: call(torch.ones(1, 3)), 1, options) for name, call in calls.items()
    ]
    assert [side.eager for side in sides] == [False, True, True]
    assert "Not compiled: forward, function." in compare("work", sides, options).notes
    torch._dynamo.reset()


def test_plain_process_has_no_huge_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    environments = []

    def run(command: list[str], env: dict[str, str], **_: object) -> subprocess.CompletedProcess:
        environments.append(env)
        Path(command[-1]).write_text(json.dumps({"entries": [{"rows": []}]}))
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(processes.subprocess, "run", run)
    monkeypatch.setenv("THP_MEM_ALLOC_ENABLE", "1")
    processes.measure_side("vae_step", "theirs", True, Options())
    assert "THP_MEM_ALLOC_ENABLE" not in environments[0]


def test_entries_leave_the_memory_allocation_of_a_plain_process() -> None:
    code = "import sys, benchmarks.entries; sys.exit('benchmarks.profile_steps' in sys.modules)"  # which changes it
    subprocess.run([sys.executable, "-c", code], check=True, cwd=CONFIGS.parent)


@pytest.mark.slow
def test_sides_of_processes_are_those_of_the_entries(monkeypatch: pytest.MonkeyPatch) -> None:
    def names(title: str, sides: list[Side], *_: object, **__: object) -> None:
        raise Found([side.name for side in sides])

    class Found(Exception):
        pass

    for module in (generation, networks):
        monkeypatch.setattr(module, "compare", names)
        monkeypatch.setattr(module, "side_of", lambda name, *_: Side(name, lambda: None, 1), raising=False)
    for name, pair in processes.PAIRS.items():
        with pytest.raises(Found) as found:
            ENTRIES[name](Options())
        assert set(pair) <= set(found.value.args[0])


def test_small_diffusion_benchmark_has_size_of_diffusers_network() -> None:
    from benchmarks.speed import diffusion

    with torch.device("meta"):
        ours = diffusion.DenoisingUNet((3, 16, 16), **diffusion.SMALL)
        theirs = pytest.importorskip("diffusers").UNet2DModel(**diffusion.SMALL_HO)
    sizes = [sum(p.numel() for p in network.parameters()) for network in (ours, theirs)]
    assert sizes == [1_242_691, 1_242_563]


def test_benchmark_of_vgg11_has_size_of_torchvisions_network() -> None:
    with torch.device("meta"):
        ours = classification._ours(Options(device="meta")).network
        theirs = classification.vgg11_bn(weights=None)
    assert [sum(p.numel() for p in network.parameters()) for network in (ours, theirs)] == [132_868_840] * 2


def test_small_vae_benchmark_has_size_of_its_peer() -> None:
    from benchmarks.speed import generation

    ours, theirs = generation._vae(*generation.SMALL_VAE, True), generation.PublicVAE(*generation.SMALL_VAE)
    assert sum(p.numel() for p in theirs.parameters()) == sum(
        p.numel() for network in ours.networks() for p in network.parameters()
    )


@pytest.mark.slow
@pytest.mark.xdist_group("memory")
@pytest.mark.parametrize("name", [detection.FASTER, detection.MASK, detection.SSD300])
def test_detectors_beside_torchvisions_find_the_same(name: str) -> None:
    ours, theirs = (model.eval() for model in detection._pair(name, Options()))
    images = torch.rand(1, 3, 320, 320)
    with torch.no_grad():
        (found,), (expected,) = ours.detect({"image": images}), theirs(images)
    torch.testing.assert_close(found["scores"], expected["scores"], rtol=0, atol=1e-3)
    assert found["scores"].unique().numel() > 10  # not all 0 or 1


@pytest.mark.slow
@pytest.mark.parametrize("name", detection.SMALL)
def test_detectors_of_the_configs_beside_torchvisions_find_the_same(name: str) -> None:
    torch.manual_seed(0)
    ours, theirs = (model.eval() for model in detection._small_pair(name))
    images = detection._batch(Options(), 2)["image"]
    with torch.no_grad():
        found, expected = ours.detect({"image": images}), theirs(images)
    for one, other in zip(found, expected, strict=True):
        # Rounding orders almost equal scores, and the order decides which boxes are suppressed.
        torch.testing.assert_close(one["scores"], other["scores"], rtol=0, atol=5e-3)
        iou, counterpart = box_iou(one["boxes"], other["boxes"]).max(1)
        same = (iou > 0.99) & (one["labels"] == other["labels"][counterpart])
        assert same.float().mean() > 0.95
        if "masks" in one:
            theirs_too = other["masks"][counterpart[same], 0] >= 0.5
            # Untrained probabilities are near one half, where rounding decides.
            assert (one["masks"][same] == theirs_too).float().mean() > 0.97
    assert found[0]["scores"].unique().numel() > 10  # not all 0 or 1


@pytest.mark.slow
@pytest.mark.parametrize("name", detection.SMALL)
def test_detectors_of_the_configs_beside_torchvisions_have_the_same_losses(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sides: list[Side] = []
    monkeypatch.setattr(detection, "compare", lambda title, found, *_, **__: sides.extend(found))
    ENTRIES[f"{name}_small_step"](Options())
    assert len({side.parameters for side in sides}) == 1
    assert [side.loss for side in sides] == pytest.approx([sides[0].loss] * 3, rel=2e-2)  # regions are sampled


@pytest.mark.slow
@pytest.mark.xdist_group("memory")  # of tests/benchmarking/test_planning.py
@pytest.mark.parametrize("name", [detection.FASTER, detection.SSD300])
def test_detectors_beside_torchvisions_have_the_same_losses(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sides: list[Side] = []
    monkeypatch.setattr(detection, "compare", lambda title, found, *_, **__: sides.extend(found))
    detection._train_against_torchvision(Options(), name)
    ours, theirs = (side.loss for side in sides)
    assert ours == pytest.approx(theirs, rel=1e-2)  # regions are sampled


@pytest.mark.slow
@pytest.mark.parametrize("name", ["unet_step", "unet_small_step", "fcn_resnet50_step", "vgg11_small_step"])
def test_sides_with_the_same_network_have_the_same_first_loss(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sides: list[Side] = []
    for module in (networks, classification):
        monkeypatch.setattr(module, "compare", lambda title, found, *_, **__: sides.extend(found))
    ENTRIES[name](Options())
    losses = [side.loss for side in sides if not side.name.startswith("smp")]
    assert len(losses) >= 2
    assert losses == pytest.approx([losses[0]] * len(losses), rel=1e-3)
