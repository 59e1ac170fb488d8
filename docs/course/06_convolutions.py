# %% [markdown]
# # Lesson 6: Transposed and dilated convolutions
#
# A network that classifies reduces its maps: strides make features cheap and receptive fields large. A segmentation needs
# a class for every pixel. Transposed convolutions enlarge maps again; dilated convolutions avoid reducing them.
#
# ## The idea
#
# A convolution reads a window for each output. A *transposed* convolution does the reverse: each input writes a scaled
# kernel to the output, the kernels of neighbours begin $s$ pixels apart, and where they overlap they add up. So $n$ inputs
# give
#
# $$n' = s \, (n - 1) + d \, (k - 1) + 1 - 2 p$$
#
# outputs, for kernel $k$, dilation $d$ and padding $p$, which *removes* pixels. With the right kernel, a tent, it is
# bilinear interpolation.
#
# A *dilated* convolution has gaps of $d - 1$ pixels between the weights of its kernel. Layers with $d = 1, 2, 4, \ldots$
# double the receptive field with every layer, without a stride and without more weights.
#
# ## The code

# %%
import torch
from torch import nn
from torch.nn import functional as F

from darkroom.callbacks.plotting.curves import curves
from darkroom.callbacks.plotting.grids import image_grid
from darkroom.callbacks.plotting.images import heat_colours
from darkroom.course.notebook import show, show_source
from darkroom.datamodules.shapes.images import ShapesImages
from darkroom.lightning_modules.layers.dilation import dilate_body
from darkroom.lightning_modules.segmentation.upsampling import FixedUpsampling, bilinear_kernel, build_upsampling

# %%
show_source(bilinear_kernel, build_upsampling, dilate_body)

# %% [markdown]
# FCN starts its upsampling as bilinear. `dilate_body` turns the strides of a pretrained classifier into dilation and keeps
# its weights: the cells of the coarse map are among those of the fine one, unchanged.
#
# ## Experiment 1: overlap
#
# Transposed convolutions of ones, with a kernel of ones, count how many inputs reach each output.

# %%
ones = torch.ones(1, 1, 8, 8)
tiles, names = [], []
for kernel, stride in ((2, 2), (3, 2), (4, 2), (5, 3)):
    count = F.conv_transpose2d(ones, torch.ones(1, 1, kernel, kernel), stride=stride)[0, 0]
    tiles.append(heat_colours(count / count.max()).round().to(torch.uint8))
    names.append(f"k {kernel}, s {stride}")
    inside = count[kernel:-kernel, kernel:-kernel]
    print(f"kernel {kernel}, stride {stride}: {tuple(count.shape)}, overlaps inside {inside.unique().int().tolist()}")
show(
    image_grid([tiles], heads=names, smallest=140),
    "06_overlap",
    "Four maps of overlaps: even inside if the kernel is a multiple of the stride, otherwise a checkerboard.",
)

# %% [markdown]
# If the kernel is not a multiple of the stride, outputs get different numbers of inputs: the checkerboard artefacts of
# [Odena et al. 2016](https://distill.pub/2016/deconv-checkerboard/).
#
# ## Experiment 2: upsampling

# %%
small = ShapesImages(side=16).dataset("test").__getitems__(range(4))["image"].float()


def shown(images):
    return [one.clamp(0, 255).round().to(torch.uint8) for one in images]


def upsample(images, layer):
    """Upsample by 4, and crop to the center."""
    large = layer(images.flatten(0, 1)[:, None])
    margin = (large.shape[-1] - 64) // 2
    return large[..., margin : margin + 64, margin : margin + 64].reshape(-1, 3, 64, 64)


bilinear = FixedUpsampling(bilinear_kernel(8, 4), 4)
nearest = build_upsampling("nearest", 1, 4)
torch.manual_seed(0)
untrained = nn.ConvTranspose2d(1, 1, 6, stride=4, bias=False)
nn.init.uniform_(untrained.weight, 0, 1)
with torch.no_grad():
    untrained.weight *= 16 / untrained.weight.sum()
    rows = {
        "16x16": shown(small),
        "nearest": shown(upsample(small, nearest)),
        "bilinear, k 8, s 4": shown(upsample(small, bilinear)),
        "random, k 6, s 4": shown(upsample(small, untrained)),
    }
show(
    image_grid(list(rows.values()), list(rows), smallest=128),
    "06_upsampling",
    "Four images enlarged four times: blocks, smooth edges, and a regular pattern from a random kernel.",
)
exact = F.interpolate(small, scale_factor=4, mode="bilinear")
inside = (slice(None), slice(None), slice(4, -4), slice(4, -4))
print(f"largest difference from F.interpolate inside: {(upsample(small, bilinear) - exact)[inside].abs().max():.4f}")

# %% [markdown]
# ## Experiment 3: receptive fields
#
# Which pixels does one output depend on? The gradient of the output with respect to the image shows it.

# %%


def receptive_field(dilations, strides):
    """Return the side of the area with a gradient, and the gradient, for a stack of 3x3 convolutions."""
    image = torch.zeros(1, 1, 127, 127, requires_grad=True)
    x = image
    for dilation, stride in zip(dilations, strides, strict=True):
        x = F.conv2d(x, torch.ones(1, 1, 3, 3) / 9, padding=dilation, dilation=dilation, stride=stride)
    x[0, 0, x.shape[2] // 2, x.shape[3] // 2].backward()
    heat = image.grad[0, 0]
    return int((heat.sum(0) > 0).sum()), heat


layers = range(1, 6)
stacks = {
    "plain": ([1] * 5, [1] * 5),
    "stride 2 in every layer": ([1] * 5, [2] * 5),
    "dilation 1, 2, 4, 8, 16": ([1, 2, 4, 8, 16], [1] * 5),
}
show(
    curves(
        [torch.tensor([[n, receptive_field(d[:n], s[:n])[0]] for n in layers]).float() for d, s in stacks.values()],
        list(stacks),
        axes=("layers", "receptive field (pixels)"),
    ),
    "06_fields",
    "The receptive field grows linearly for plain layers, and doubles with every layer for strides and for dilation.",
)

# %% [markdown]
# Strides and dilation have the same receptive fields: their curves coincide. With strides the map of five layers is 32
# times smaller per side; with dilation it has a value for every pixel, at the cost of computing all of them.
#
# ## What goes wrong
#
# Sizes. A transposed convolution of stride 2 seems to double a map. It does so for some kernels and paddings only, and a
# U-Net whose skip connection has another size fails, or crops silently:

# %%
for kernel, padding in ((2, 0), (3, 0), (3, 1), (4, 1)):
    layer = nn.ConvTranspose2d(1, 1, kernel, stride=2, padding=padding)
    print(f"kernel {kernel}, padding {padding}: 8 -> {layer(torch.zeros(1, 1, 8, 8)).shape[-1]}")
