"""U-Net, and U-Net with a classifier as its contracting path."""

from darkroom.lightning_modules.segmentation.unet.encoder_unet import EncoderUNet, EncoderUNetNetwork
from darkroom.lightning_modules.segmentation.unet.unet import UNet, UNetNetwork

__all__ = ["EncoderUNet", "EncoderUNetNetwork", "UNet", "UNetNetwork"]
