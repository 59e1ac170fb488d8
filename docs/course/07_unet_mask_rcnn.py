# %% [markdown]
# # Lesson 7: U-Net and Mask R-CNN
#
# Coarse maps know *what*, fine maps know *where*. U-Net ([Ronneberger et al. 2015](https://arxiv.org/abs/1505.04597)) joins
# them at every resolution. Mask R-CNN ([He et al. 2017](https://arxiv.org/abs/1703.06870)) separates objects of one class:
# it predicts a small mask within each detected box.
#
# ## The idea
#
# The contracting path of U-Net halves the map and doubles the channels. The expanding path doubles the map by transposed
# convolutions, and concatenates the map of the same size from the contracting path: the skip connection. The paper's
# convolutions have no padding, so the skip connection is cropped to its center.
#
# Cells that touch are one area in a semantic mask. U-Net keeps them apart by a weight on narrow gaps, with the distances
# $d_1$ and $d_2$ to the two nearest cells:
#
# $$w = w_c + w_0 \exp \left( -\frac{(d_1 + d_2)^2}{2 \sigma^2} \right)$$
#
# Mask R-CNN cuts each region out of the map by RoIAlign, and predicts $28 \times 28$ probabilities. To train it, the
# object's mask is cut to the same grid; to predict, the grid is pasted back into the box.
#
# ## The code

# %%
import torch

from darkroom.callbacks.plotting.curves import curves
from darkroom.callbacks.plotting.grids import contact_sheet, image_grid
from darkroom.callbacks.plotting.images import colorize, overlay_heat
from darkroom.course.notebook import show, show_source
from darkroom.datamodules.shapes.detection import ShapesDetection
from darkroom.datamodules.shapes.segmentation import ShapesSegmentation
from darkroom.datamodules.transforms.border_map import border_distance
from darkroom.lightning_modules.detection.torchvision.masks import mask_targets, paste
from darkroom.lightning_modules.segmentation.losses import BorderWeighted
from darkroom.lightning_modules.segmentation.metrics import SegmentationScores
from darkroom.lightning_modules.segmentation.unet.unet import UNetNetwork, Up

# %%
show_source(Up.forward, BorderWeighted.forward, mask_targets, paste)

# %% [markdown]
# ## Experiment 1: a small U-Net

# %%
data = ShapesSegmentation(side=32, objects=(1, 2))
train = data.dataset("train").__getitems__(range(1024))
test = data.dataset("test").__getitems__(range(128))
torch.manual_seed(0)
network = UNetNetwork(3, 6, base_channels=8)
optimizer = torch.optim.Adam(network.parameters(), lr=5e-3)
losses = []
for _ in range(350):
    chosen = torch.randint(1024, (16,))
    logits = network(train["image"][chosen] / 127.5 - 1)
    loss = torch.nn.functional.cross_entropy(logits, train["mask"][chosen].long())
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    losses.append(loss.item())
network.eval()
with torch.no_grad():
    predicted = network(test["image"] / 127.5 - 1).argmax(1)
metric = SegmentationScores(6, class_names=data.class_names)
metric.update(predicted, test["mask"].long())
print(f"mean loss of the last 50 steps {sum(losses[-50:]) / 50:.3f}, test mIoU {metric.compute()['mIoU']:.3f}")
legend = {name: index for index, name in enumerate(data.class_names)}
show(
    contact_sheet(
        {
            "image": list(test["image"][:7]),
            "truth": [colorize(mask, 6) for mask in test["mask"][:7]],
            "U-Net": [colorize(mask, 6) for mask in predicted[:7]],
        },
        legend,
        side=96,
    ),
    "07_unet",
    "Seven scenes with their true masks and those of a small U-Net, which finds the outlines but confuses the classes.",
)

# %% [markdown]
# After seconds of training the outlines are nearly right, since they come from the fine maps through the skip
# connections. The classes need more steps: they come from the coarse maps. `configs/segmentation/unet.yaml` trains longer.
#
# ## Experiment 2: weights of the gaps

# %%
scene = ShapesSegmentation(side=64, objects=(4, 5)).generator.describe("test", range(6))
rows = []
for index in range(6):
    border = torch.from_numpy(border_distance(scene.owner[index]))
    weight = torch.exp(-border.square() / (2 * 5.0**2))  # without w_0
    rows.append(overlay_heat(torch.from_numpy(scene.images[index]), weight))
show(
    image_grid([[torch.from_numpy(one) for one in scene.images], rows], ["image", "weight"], smallest=96),
    "07_border",
    "Six scenes with the weight of each pixel: it is high in narrow gaps between objects.",
)

# %% [markdown]
# ## Experiment 3: masks on a grid
#
# How much of a mask is lost on a grid of $S \times S$ cells? Cut each object's mask to its box, and paste it back.

# %%
scenes = ShapesDetection(side=128).generator.describe("test", range(60))
all_boxes, visible = scenes.boxes()
points = []
for cells in (4, 7, 14, 28, 56):
    overlaps = []
    for index in range(60):
        masks = torch.from_numpy(scenes.instances(index)).bool()
        boxes = torch.from_numpy(all_boxes[index][visible[index]]).float()
        pasted = paste(mask_targets(masks, boxes, torch.arange(len(masks)), cells), boxes, (128, 128))
        overlaps.append((pasted & masks).sum((1, 2)) / (pasted | masks).sum((1, 2)))
    points.append([float(cells), float(torch.cat(overlaps).mean())])
    print(f"{cells:2} x {cells:2} cells: mean IoU {points[-1][1]:.3f}")
show(
    curves([torch.tensor(points)], [""], axes=("cells along a side", "mean IoU of the pasted mask"), log_x=True),
    "07_cells",
    "The IoU of masks that are cut to a grid and pasted back rises with the number of cells.",
)

# %% [markdown]
# ## What goes wrong
#
# Images are resized by bilinear interpolation. Masks must not be: class ids are names, not amounts. Between background (0)
# and cross (5) lie all other classes. A known program for FCN had this fault:
# [FCN.tensorflow, issue 4](https://github.com/shekkizh/FCN.tensorflow/issues/4).

# %%
mask = train["mask"][(train["mask"] == 5).flatten(1).any(1)][:5].long()
small = torch.nn.functional.interpolate(mask[:, None].float(), (40, 40), mode="bilinear")[:, 0].round().long()
right = torch.nn.functional.interpolate(mask[:, None].float(), (40, 40), mode="nearest")[:, 0].long()
show(
    contact_sheet(
        {
            "mask": [colorize(one, 6) for one in mask],
            "nearest": [colorize(one, 6) for one in right],
            "bilinear": [colorize(one, 6) for one in small],
        },
        legend,
        side=110,
    ),
    "07_resized",
    "Masks of crosses, resized: with bilinear interpolation other classes appear along the outlines.",
)
print(f"pixels with another class: {(small != right).float().mean():.1%}")
