"""Semantic segmentation: a class for every pixel."""

from lightning_modules.layers.convolutionalize import convolutionalize
from lightning_modules.segmentation.base import SemanticSegmentation
from lightning_modules.segmentation.convolutionalization import ConvolutionalizedClassifier
from lightning_modules.segmentation.deconvnet import DeconvNet, DeconvNetwork
from lightning_modules.segmentation.dilated import ContextModule, DilatedNet, DilatedNetwork
from lightning_modules.segmentation.ensemble import Ensemble
from lightning_modules.segmentation.fcn import FCN, FCNNetwork
from lightning_modules.segmentation.inference import Inference
from lightning_modules.segmentation.losses import BorderWeighted, CrossEntropy, Dice, Focal, Lovasz, Sum
from lightning_modules.segmentation.metrics import PerImageScores, SegmentationScores
from lightning_modules.segmentation.unet import UNet, UNetNetwork

__all__ = [
    "FCN",
    "BorderWeighted",
    "ContextModule",
    "ConvolutionalizedClassifier",
    "CrossEntropy",
    "DeconvNet",
    "DeconvNetwork",
    "Dice",
    "DilatedNet",
    "DilatedNetwork",
    "Ensemble",
    "FCNNetwork",
    "Focal",
    "Inference",
    "Lovasz",
    "PerImageScores",
    "SegmentationScores",
    "SemanticSegmentation",
    "Sum",
    "UNet",
    "UNetNetwork",
    "convolutionalize",
]
