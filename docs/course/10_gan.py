# %% [markdown]
# # Lesson 10: GAN
#
# A VAE needs a likelihood, and a likelihood of pixels prefers blurred images. A generative adversarial network (GAN,
# [Goodfellow et al. 2014](https://arxiv.org/abs/1406.2661)) learns the loss too: a second network decides whether an image
# looks real.
#
# ## The idea
#
# The generator $G$ maps noise $z$ to images. The discriminator $D$ maps an image to the probability that it is real. They
# play against each other:
#
# $$L_D = -\mathbb{E}_x[\log D(x)] - \mathbb{E}_z[\log(1 - D(G(z)))], \qquad L_G = -\mathbb{E}_z[\log D(G(z))]$$
#
# $L_G$ is the non-saturating loss. Minimizing $\log(1 - D(G(z)))$ instead has the same optimum, but no gradient at the
# start, when the discriminator recognizes every image.
#
# If the generator were perfect, the best discriminator would return 1/2 everywhere. Neither loss falls over time, so losses
# do not measure quality. Look at samples.
#
# ## The code

# %%
import torch

from darkroom.callbacks.plotting.curves import curves
from darkroom.callbacks.plotting.grids import image_grid
from darkroom.callbacks.plotting.images import to_uint8_rgb
from darkroom.course.notebook import show, show_source
from darkroom.datamodules.shapes.images import ShapesImages
from darkroom.lightning_modules.adversarial.dcgan import DCGAN, DCGANDiscriminator, DCGANGenerator
from darkroom.lightning_modules.adversarial.losses import discriminator_loss, generator_loss

# %%
show_source(discriminator_loss, generator_loss, DCGANGenerator, DCGAN.logits_of)

# %% [markdown]
# Losses take logits: `softplus(-s)` is $-\log \mathrm{sigmoid}(s)$ without the logarithm of 0. The networks follow DCGAN
# ([Radford et al. 2016](https://arxiv.org/abs/1511.06434)): transposed convolutions up, strided convolutions down.
#
# ## Experiment: a DCGAN of shapes

# %%
data = ShapesImages(train_size=4096, side=16).dataset("train").__getitems__(range(4096))
images = data["image"] / 127.5 - 1


def train(together, steps=2000):
    """Train a DCGAN; return samples of fixed noise over time, and mean outputs of D for real and generated images."""
    torch.manual_seed(0)
    generator = DCGANGenerator((3, 16, 16), latent_dim=32, base_channels=16)
    discriminator = DCGANDiscriminator((3, 16, 16), base_channels=16)
    optimizers = [
        torch.optim.Adam(network.parameters(), lr=1e-3, betas=(0.5, 0.999)) for network in (discriminator, generator)
    ]
    fixed, snapshots, history = torch.randn(12, 32), {}, []

    def logits_of(real, fake):
        if together:  # one batch, so that batch norm has one mean and variance for both
            return discriminator(torch.cat([real, fake])).chunk(2)
        return discriminator(real), discriminator(fake)

    for step in range(1, steps + 1):
        real = images[torch.randint(len(images), (64,))]
        fake = generator(torch.randn(64, 32))
        of_real, of_fake = logits_of(real, fake.detach())  # detach: this step trains the discriminator alone
        optimizers[0].zero_grad()
        discriminator_loss("non_saturating", of_real, of_fake).backward()
        optimizers[0].step()
        optimizers[1].zero_grad()
        generator_loss("non_saturating", logits_of(real, fake)[1]).backward()
        optimizers[1].step()
        history.append([of_real.detach().sigmoid().mean(), of_fake.detach().sigmoid().mean()])
        if step in (100, 300, 800, steps):
            with torch.no_grad():
                snapshots[f"step {step}"] = [to_uint8_rgb((one + 1) / 2) for one in generator(fixed)]
    return snapshots, torch.tensor(history)


snapshots, history = train(together=True)
show(
    image_grid(list(snapshots.values()), list(snapshots)),
    "10_samples",
    "Samples of the same noise at four steps of training: from grey blobs to coloured shapes.",
)

# %%
smooth = history.unfold(0, 100, 100).mean(-1)
steps = torch.arange(len(smooth)) * 100.0
show(
    curves(
        [torch.stack([steps, smooth[:, 0]], 1), torch.stack([steps, smooth[:, 1]], 1)],
        ["real images", "generated images"],
        axes=("training steps", "mean output of D"),
    ),
    "10_outputs",
    "The mean output of the discriminator for real images stays above that for generated images.",
)

# %% [markdown]
# The discriminator stays ahead, and its outputs do not say how good the samples are: only the samples show it. A minute on
# one core gives coloured blobs; `configs/adversarial/dcgan.yaml` trains longer.
#
# ## What goes wrong
#
# Batch norm subtracts the mean of the batch. If real and generated images are in batches of their own, what *all* generated
# images have in common, such as a background of the wrong colour, is subtracted before the discriminator can see it. So the
# generator is not corrected. Compare the colour of the background at the upper border:

# %%
apart, _ = train(together=False)
for name, shots in {"together": snapshots, "apart": apart}.items():
    last = torch.stack(list(shots.values())[-1]) / 127.5 - 1
    border = (last[:, :, 0].mean((0, 2)) - images[:, :, 0].mean((0, 2))).abs().mean()
    print(f"{name:9} error of the mean colour of the top row of pixels: {127.5 * border:.1f} of 255")
show(
    image_grid([list(snapshots.values())[-1], list(apart.values())[-1]], ["together", "apart"]),
    "10_apart",
    "Samples of two GANs: with batch norm over real and generated images together, and apart.",
)

# %% [markdown]
# Apart, the background is black instead of dark grey, and its error is about twice as large. Other recipes use batches of
# their own for real and generated images, and discriminators without batch norm (spectral norm, for example) do not have
# this question. In [`DCGAN`](<code:lightning_modules/adversarial/dcgan.py#DCGAN>) it is an option.
