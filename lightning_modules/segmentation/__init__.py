"""Semantic segmentation: a class for every pixel."""

from darkroom.lightning_modules.layers.convolutionalize import convolutionalize
from darkroom.lightning_modules.segmentation.base import SemanticSegmentation
from darkroom.lightning_modules.segmentation.convolutionalization import ConvolutionalizedClassifier
from darkroom.lightning_modules.segmentation.deconvnet import DeconvNet, DeconvNetwork
from darkroom.lightning_modules.segmentation.dilated import ContextModule, DilatedNet, DilatedNetwork
from darkroom.lightning_modules.segmentation.ensemble import Ensemble
from darkroom.lightning_modules.segmentation.fcn import FCN, FCNBodyNetwork, FCNNetwork
from darkroom.lightning_modules.segmentation.inference import Inference
from darkroom.lightning_modules.segmentation.losses import BorderWeighted, CrossEntropy, Dice, Focal, Lovasz, Sum
from darkroom.lightning_modules.segmentation.metrics import PerImageScores, SegmentationScores
from darkroom.lightning_modules.segmentation.unet import EncoderUNet, EncoderUNetNetwork, UNet, UNetNetwork

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
    "EncoderUNet",
    "EncoderUNetNetwork",
    "Ensemble",
    "FCNBodyNetwork",
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
