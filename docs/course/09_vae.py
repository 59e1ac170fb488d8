# %% [markdown]
# # Lesson 9: VAE and conditional VAE
#
# An autoencoder maps an image to a code and back, but does not say which codes are likely. A variational autoencoder
# (VAE, [Kingma & Welling 2014](https://arxiv.org/abs/1312.6114)) does: codes come from a known prior, so new images can be
# sampled.
#
# ## The idea
#
# 1. The encoder returns a distribution of codes instead of one code: a normal $q(z|x)$ with a mean and a variance.
# 2. The decoder is trained with a code sampled from it.
# 3. A penalty keeps $q(z|x)$ near the prior $p(z) = \mathcal{N}(0, 1)$. So a code sampled from the prior is one that the
#    decoder has seen.
#
# Training maximizes the evidence lower bound (ELBO) of the log-likelihood of an image:
#
# $$\log p(x) \geq \mathbb{E}_{q(z|x)}[\log p(x|z)] - \mathrm{KL}(q(z|x) \,\|\, p(z))$$
#
# For a normal posterior and a standard normal prior the KL has a closed form, the sum over the $D$ dimensions of a code of
#
# $$\mathrm{KL} = \frac{1}{2} \left( \mu^2 + \sigma^2 - 1 - \log \sigma^2 \right)$$
#
# The gradient of an expectation over $q$ is taken with respect to the parameters of $q$ itself. The reparameterization
# $z = \mu + \sigma \varepsilon$ with $\varepsilon \sim \mathcal{N}(0, 1)$ moves them into a function that can be
# differentiated.
#
# ## The code

# %%
import torch

from darkroom.callbacks.plotting.curves import curves
from darkroom.callbacks.plotting.grids import image_grid
from darkroom.callbacks.plotting.latent_views import manifold
from darkroom.course.notebook import show, show_source
from darkroom.datamodules.shapes.images import ShapesImages
from darkroom.lightning_modules.autoencoding import VAE, ConditionalVAE, kl_divergence

# %%
show_source(kl_divergence, VAE.reparameterize, VAE.loss_terms)

# %% [markdown]
# The encoder returns the *logarithm* of the variance: any real number is valid, and $\sigma = \exp(\log \sigma^2 / 2)$.
# The loss is the negative ELBO, so the KL is added. The whole class, with schedules of $\beta$, free bits and the
# importance-weighted bound, is [`VAE`](<code:lightning_modules/autoencoding/vae.py#VAE>).
#
# ## Experiment: a plane of shapes
#
# The data are images of 16x16 pixels with one shape each. The code has two numbers, so that the whole latent space can be
# shown.

# %%
data = ShapesImages(train_size=2048, side=16).dataset("train").__getitems__(range(2048))
images, kinds = data["image"] / 127.5 - 1, data["label"]


def train(model, steps, kl_weight=1.0):
    """Train on random batches; return -log p(x|z) and the KL of each step, in nats per image."""
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    history = []
    for _ in range(steps):
        chosen = torch.randint(len(images), (64,))
        x, labels = images[chosen], kinds[chosen] if model.is_conditional else None
        mean, log_variance = model.posterior(x, labels)
        z = model.reparameterize(mean, log_variance)
        reconstruction = -model.likelihood.log_prob(model.likelihood_parameters(z, labels), x)
        terms = model.loss_terms(reconstruction, kl_divergence(mean, log_variance), kl_weight)
        optimizer.zero_grad()
        terms["loss"].backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 100.0)
        optimizer.step()
        history.append(torch.stack([terms["reconstruction"], terms["kl"]]).detach())
    return torch.stack(history)


torch.manual_seed(0)
vae = VAE(image_shape=(3, 16, 16), latent_dim=2, architecture="mlp", hidden=(256,))
history = train(vae, 1500)

# %%
smooth = history.unfold(0, 50, 50).mean(-1)
steps = torch.arange(len(smooth)) * 50.0
show(
    curves(
        [torch.stack([steps, smooth[:, 1]], 1)],
        ["KL"],
        axes=("training steps", "KL (nats per image)"),
    ),
    "09_kl",
    "The KL rises from zero during training, as the code is used more.",
)
print(f"last 50 steps: -log p(x|z) {smooth[-1, 0]:.0f} nats, KL {smooth[-1, 1]:.1f} nats")

# %% [markdown]
# The KL is the number of nats that the code carries about an image. It *grows* during training, although it is a penalty:
# at the first step the posterior nearly equals the prior; later each nat pays for itself by a better reconstruction.

# %%
vae.eval()
with torch.no_grad():
    decode = lambda codes, labels: vae.to_uint8(vae.decode(codes))  # noqa: E731
    plane = manifold(decode, torch.randn(4000, 2), torch.zeros(2), [0, 1], 11)
show(plane, "09_plane", "Eleven by eleven decoded images: colour and size change smoothly over the latent plane.")

# %% [markdown]
# Neighbours on the plane decode to similar images. With two numbers the model describes what saves most nats: the colour,
# and roughly the size and the place. The kind of the shape saves few, so it is blurred.
#
# ## Conditional VAE
#
# A conditional VAE ([Sohn et al. 2015](https://papers.nips.cc/paper/5775)) gives the label $y$ to encoder and decoder: the
# bound is one of $\log p(x|y)$. The code need not contain the label, and an image can be sampled by its class. In the
# project it is the same class with one line changed:

# %%
show_source(ConditionalVAE)

# %%
torch.manual_seed(0)
conditional = ConditionalVAE(image_shape=(3, 16, 16), num_classes=5, latent_dim=8, architecture="mlp", hidden=(256,))
train(conditional, 1500)
conditional.eval()
with torch.no_grad():
    z = torch.randn(10, 8)
    rows = [conditional.to_uint8(conditional.decode(z, labels=torch.full((10,), kind))) for kind in range(5)]
page = image_grid(
    [list(row) for row in rows], ["circle", "square", "triangle", "star", "cross"], title="one code per column"
)
show(page, "09_conditional", "Five rows of shapes by class; each column has one colour and place, from one code.")

# %% [markdown]
# A column has one code: colour and place are the same in all rows. A row has one class.
#
# ## What goes wrong
#
# A frequent fault is the sign of the KL: the formula is printed as a part of the ELBO, which is maximized, and ends up in
# a loss, which is minimized ([an example with the sign of one term](https://github.com/FluxML/model-zoo/pull/147)). The
# loss then looks fine, since it falls:

# %%
torch.manual_seed(0)
broken = VAE(image_shape=(3, 16, 16), latent_dim=2, architecture="mlp", hidden=(256,))
wrong = train(broken, 300, kl_weight=-1.0)
loss = wrong[:, 0] - wrong[:, 1]
for step in (0, 100, 200, 299):
    print(f"step {step:3}: loss {loss[step]:12.0f}   -log p(x|z) {wrong[step, 0]:10.0f}   KL {wrong[step, 1]:12.0f}")

# %% [markdown]
# Watch the KL beside the loss. A KL that grows without limit is a wrong sign; a KL of zero means that the decoder ignores
# the code (posterior collapse). [`VAE`](<code:lightning_modules/autoencoding/vae.py#VAE>) logs both terms under their
# names.
