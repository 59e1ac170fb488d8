# %% [markdown]
# # Lesson 5: Convolutionalization and FCN
#
# A classifier gives one output for an image. Slid over a larger image as a window, it gives an output at every place, and
# computes the same features again and again. A fully convolutional network (FCN,
# [Long et al. 2015](https://arxiv.org/abs/1411.4038)) gives all of them in one pass.
#
# ## The idea
#
# A linear layer over a flattened map of $C \times h \times w$ is a convolution with a kernel of $h \times w$ that fits in
# at exactly one place. On a larger map it fits in at more places, and its output is a map. The weights are the same:
#
# $$y_k = \sum_{c, i, j} W_{k, (c, i, j)} \, x_{c, i, j} + b_k$$
#
# Each output sees its receptive field. A layer with kernel $k$ and dilation $d$ widens it by $(k - 1) \, d$ times the
# product of the strides of all layers before it:
#
# $$r = 1 + \sum_l (k_l - 1) \, d_l \prod_{m < l} s_m$$
#
# ## The code

# %%
import torch
from torch import nn

from darkroom.callbacks.plotting.curves import curves
from darkroom.callbacks.plotting.grids import contact_sheet
from darkroom.callbacks.plotting.images import colorize, overlay
from darkroom.course.notebook import show, show_source
from darkroom.datamodules.shapes.segmentation import ShapesSegmentation
from darkroom.lightning_modules.layers.convolutionalize import convolutionalize, linear_to_conv
from darkroom.lightning_modules.segmentation.geometry import coordinate_map
from darkroom.lightning_modules.segmentation.metrics import SegmentationScores

# %%
show_source(linear_to_conv, coordinate_map)

# %% [markdown]
# [`convolutionalize`](<code:lightning_modules/layers/convolutionalize.py#convolutionalize>) does this for a whole
# classifier of torchvision. `coordinate_map` computes where in the image an output lies, which upsampling needs.
#
# ## Experiment: from a classifier of patches to a map
#
# Train a small classifier on patches of 17x17 pixels: the class of the pixel in the middle.

# %%
data = ShapesSegmentation(side=64)
scenes = data.dataset("train").__getitems__(range(600))
images, masks = scenes["image"] / 127.5 - 1, scenes["mask"].long()
torch.manual_seed(0)
classifier = nn.Sequential(
    nn.Conv2d(3, 24, 5, stride=2),  # 17 -> 7
    nn.ReLU(),
    nn.Conv2d(24, 48, 3, stride=2),  # 7 -> 3
    nn.ReLU(),
    nn.Flatten(),
    nn.Linear(48 * 3 * 3, 64),
    nn.ReLU(),
    nn.Linear(64, 6),
)
optimizer = torch.optim.Adam(classifier.parameters(), lr=2e-3)
windows = torch.nn.functional.pad(images, (8, 8, 8, 8)).unfold(2, 17, 1).unfold(3, 17, 1)  # (N, 3, 64, 64, 17, 17)
objects = masks > 0
for step in range(1200):
    of_object = objects if step % 2 else ~objects  # as many patches of objects as of the background
    places = of_object.nonzero()
    image, row, column = places[torch.randint(len(places), (128,))].T
    loss = nn.functional.cross_entropy(classifier(windows[image, :, row, column]), masks[image, row, column])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
print(f"loss of the last batch {loss.item():.3f}, of guessing {torch.tensor(6.0).log():.3f}")

# %% [markdown]
# Now the same weights as a network of convolutions. On the patch it returns the same logits, on the image a map:

# %%
network = convolutionalize(classifier.eval(), window=17)
with torch.no_grad():
    patch = windows[0, :, 20, 30][None]
    same = torch.allclose(network(patch).flatten(), classifier(patch).flatten(), atol=1e-5)
    print(f"same logits for a patch: {same}")
    padded = torch.nn.functional.pad(images[:1], (8, 8, 8, 8))
    print(f"an image of {tuple(padded.shape)} gives {tuple(network(padded).shape)}")
    swept = classifier(windows[0, :, ::4, ::4].flatten(1, 2).transpose(0, 1))
    at_once = network(padded)
difference = (at_once.flatten(2)[0].T - swept).abs().max()
print(f"largest difference {difference:.0e}")
print(f"stride {coordinate_map(network.children())[0]}: all 256 windows share their features")

# %%
test = data.dataset("test").__getitems__(range(200))
pixels = torch.nn.functional.pad(test["image"] / 127.5 - 1, (8, 8, 8, 8))
with torch.no_grad():
    coarse = network(pixels)
    dense = nn.functional.interpolate(coarse, scale_factor=4, mode="bilinear")
predicted = dense.argmax(1)
metric = SegmentationScores(6, class_names=data.class_names)
metric.update(predicted, test["mask"].long())
print(f"mIoU of 200 test scenes {metric.compute()['mIoU']:.3f}")
legend = {name: index for index, name in enumerate(data.class_names)}
sheet = contact_sheet(
    {
        "image": [overlay(image, torch.zeros(64, 64, dtype=torch.long), 6) for image in test["image"][:6]],
        "truth": [colorize(mask, 6) for mask in test["mask"][:6]],
        "map, 16x16": [colorize(one.argmax(0), 6) for one in coarse[:6]],
        "upsampled": [colorize(one, 6) for one in predicted[:6]],
    },
    legend,
    side=96,
)
show(
    sheet,
    "05_maps",
    "Six scenes with their masks, the coarse map of 16 by 16 classes, and the upsampled map.",
)

# %% [markdown]
# A classifier of 17x17 patches finds objects roughly. It has never seen more than a patch, so it cannot know the kind of a
# large shape. FCN trains the network of convolutions on whole images, starts from a classifier with a larger receptive
# field, and adds finer maps: [`FCN`](<code:lightning_modules/segmentation/fcn/fcn.py#FCN>).
#
# ## What goes wrong
#
# The mean IoU is a ratio of sums over *all* pixels of the test set. Averaged over batches, it depends on the batch size:

# %%
values = []
for size in (1, 2, 5, 10, 20, 50, 100, 200):
    each = []
    for p, t in zip(predicted.split(size), test["mask"].long().split(size), strict=True):
        metric = SegmentationScores(6)
        metric.update(p, t)
        each.append(metric.compute()["mIoU"])
    values.append([float(size), float(torch.stack(each).mean())])
show(
    curves(
        [torch.tensor(values), torch.tensor([[1.0, values[-1][1]], [200.0, values[-1][1]]])],
        ["mean over batches", "whole set"],
        axes=("batch size", "mean IoU"),
        log_x=True,
    ),
    "05_batches",
    "The mean over batches of the mean IoU changes with the batch size; over the whole set it is one number.",
)

# %% [markdown]
# Published code has this fault: [an example](https://github.com/IvLabs/stagewise-knowledge-distillation/issues/12). The
# model is the same everywhere in this plot. In a batch with few classes, the classes that are absent are left out of the
# mean, and the background counts more.
