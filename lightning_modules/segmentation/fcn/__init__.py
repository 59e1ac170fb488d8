"""FCN on classifiers with fully connected layers, as in the paper, and on those without."""

from darkroom.lightning_modules.segmentation.fcn.body_network import FCNBodyNetwork
from darkroom.lightning_modules.segmentation.fcn.fcn import FCN, FCNNetwork

__all__ = ["FCN", "FCNBodyNetwork", "FCNNetwork"]
