# %% [markdown]
# # Lesson 8: Autoencoder
#
# An autoencoder learns to describe an image by few numbers, without labels: an encoder maps it to a *code*, a decoder maps
# the code back, and the reconstruction must equal the image.
#
# ## The idea
#
# The code is a bottleneck. With $D$ numbers for an image of $C \cdot H \cdot W$ values, the network must use what images
# have in common. Training minimizes the squared error (or a cross-entropy) of the reconstruction:
#
# $$L = \mathbb{E}_x \, \| x - \mathrm{dec}(\mathrm{enc}(x)) \|^2$$
#
# With linear encoder and decoder, the best solution is known: the first $D$ principal components (PCA). So PCA is the
# baseline that every autoencoder must beat.
#
# ## The code

# %%
import torch

from darkroom.callbacks.plotting.curves import curves
from darkroom.callbacks.plotting.grids import image_grid
from darkroom.callbacks.plotting.images import to_uint8_rgb
from darkroom.course.notebook import show, show_source
from darkroom.datamodules.shapes.images import ShapesImages
from darkroom.lightning_modules.autoencoding import AutoEncoder, Bernoulli, MLPEncoder

# %%
show_source(MLPEncoder.forward, AutoEncoder.encode, AutoEncoder.decode, AutoEncoder.error, Bernoulli.log_prob)

# %% [markdown]
# Images are in $[-1, 1]$. A Bernoulli likelihood needs probabilities, so `log_prob` maps them to $[0, 1]$ first.
#
# ## Experiment: codes of a few numbers

# %%
source = ShapesImages(train_size=4096, test_size=256, side=16)
train = source.dataset("train").__getitems__(range(4096))["image"] / 127.5 - 1
test = source.dataset("test").__getitems__(range(256))["image"] / 127.5 - 1


def fit(code_size, steps=700):
    """Train an autoencoder with a code of some numbers."""
    torch.manual_seed(0)
    model = AutoEncoder(image_shape=(3, 16, 16), latent_dim=code_size, architecture="mlp", hidden=(256,))
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for _ in range(steps):
        x = train[torch.randint(len(train), (128,))]
        loss = (model.decode(model.encode(x)) - x).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


def by_components(x, k):
    """Reconstruct images from k principal components of the training images."""
    flat = train.flatten(1)
    directions = torch.linalg.svd(flat[:1024] - flat.mean(0), full_matrices=False).Vh[:k]
    centred = x.flatten(1) - flat.mean(0)
    return (centred @ directions.T @ directions + flat.mean(0)).view_as(x)


sizes = [2, 4, 8, 16, 32]
models = {size: fit(size) for size in sizes}
with torch.no_grad():
    network = [float((models[size].decode(models[size].encode(test)) - test).square().mean()) for size in sizes]
linear = [float((by_components(test, size) - test).square().mean()) for size in sizes]
for size, one, other in zip(sizes, network, linear, strict=True):
    print(f"code of {size:2} numbers: mean squared error {one:.4f}, PCA {other:.4f}")
show(
    curves(
        [torch.tensor(list(zip(sizes, values, strict=True))) for values in (network, linear)],
        ["autoencoder", "PCA"],
        axes=("numbers in the code", "mean squared error (test)"),
        log_x=True,
        log_y=True,
    ),
    "08_error",
    "The error of autoencoder and PCA falls with the size of the code; for 4 to 16 numbers the autoencoder is below PCA.",
)

# %%
with torch.no_grad():
    rows = {
        "image": test[:10],
        "autoencoder, 8": models[8].decode(models[8].encode(test[:10])),
        "PCA, 8": by_components(test[:10], 8),
        "autoencoder, 32": models[32].decode(models[32].encode(test[:10])),
    }
show(
    image_grid([[to_uint8_rgb((one + 1) / 2) for one in row] for row in rows.values()], list(rows)),
    "08_reconstructions",
    "Ten test images and their reconstructions from 8 and 32 numbers, and from 8 principal components.",
)

# %% [markdown]
# With few numbers the autoencoder is better than PCA. With many, PCA reaches a network that is trained for so short a time.
#
# ## Between and beyond the codes
#
# Codes on the line between two codes decode to images in between. Codes at random do not decode to shapes: the
# autoencoder does not say which codes are likely. That is what the VAE of the next lesson adds.

# %%
with torch.no_grad():
    model = models[8]
    start, end = model.encode(test[[0]]), model.encode(test[[4]])
    line = model.decode(torch.lerp(start, end, torch.linspace(0, 1, 10)[:, None]))
    codes = model.encode(train)
    random = model.decode(codes.mean(0) + codes.std(0) * torch.randn(10, 8))
show(
    image_grid(
        [[to_uint8_rgb((one + 1) / 2) for one in row] for row in (line, random)], ["interpolation", "random codes"]
    ),
    "08_codes",
    "Above, images between two reconstructions; below, decoded random codes, which are blobs.",
)

# %% [markdown]
# ## What goes wrong
#
# Ranges. Data in $[-1, 1]$ meets a loss for $[0, 1]$, and no error is raised. With the cross-entropy of logits, a black
# pixel is then the "probability" -1, for which the loss has no minimum: it falls for ever.

# %%
logits = torch.tensor([-1.0, -10.0, -100.0])
black = -torch.ones(3)
right = -Bernoulli().log_prob(logits[:, None], black[:, None])
wrong = torch.nn.functional.binary_cross_entropy_with_logits(logits, black, reduction="none")
for values in zip(logits, right, wrong, strict=True):
    print("logit {:6.0f}: right loss {:6.4f}, with images as probabilities {:8.1f}".format(*values))
