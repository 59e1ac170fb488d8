"""ConditionalVAE (Sohn et al. 2015; Kingma et al. 2014, model M2): a VAE whose encoder and decoder are told the class."""

from darkroom.lightning_modules.autoencoding.vae import VAE


class ConditionalVAE(VAE):
    """A VAE of p(x|y): q(z|x, y) and p(x|z, y) are told the label y; the prior of z, N(0, 1), is the same for all classes.

    So the code need not hold the class, and pictures are drawn of the class asked for. Everything else is VAE's, but for
    these arguments.

    Args:
        num_classes: the number of labels; the command line takes it from the data.
        encoder: maps (B, C, H, W) and labels int64 (B,) to (B, 2 D).
        decoder: maps (B, D) and labels int64 (B,) to the likelihood's parameters (B, C, H, W).

    Raises:
        UsageError: as VAE; and for num_classes missing.
    """

    conditional = True
