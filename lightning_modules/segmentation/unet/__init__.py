"""U-Net, and U-Net with a classifier as its contracting path."""

from darkroom.lightning_modules.layers.contracting_path import DoubleConv, Down
from darkroom.lightning_modules.segmentation.unet.encoder_unet import EncoderUNet, EncoderUNetNetwork
from darkroom.lightning_modules.segmentation.unet.unet import OutConv, UNet, UNetNetwork, Up

__all__ = ["DoubleConv", "Down", "EncoderUNet", "EncoderUNetNetwork", "OutConv", "UNet", "UNetNetwork", "Up"]
