"""ConditionalVAE (Sohn et al. 2015; Kingma et al. 2014, model M2): a VAE conditioned on the class."""

from darkroom.lightning_modules.autoencoding.vae import VAE


class ConditionalVAE(VAE):
    """VAE of p(x|y): q(z|x, y) and p(x|z, y) are conditioned on the label y; the prior of z is N(0, 1) for all classes.

    The code need not contain the class, and images can be sampled by class. All arguments but these are VAE's.

    Args:
        num_classes: the number of labels; the command line takes it from the data.
        encoder: maps (B, C, H, W) and labels int64 (B,) to (B, 2 D).
        decoder: maps (B, D) and labels int64 (B,) to the likelihood's parameters (B, C, H, W).

    Raises:
        UsageError: see VAE; also if num_classes is missing.
    """

    is_conditional = True
