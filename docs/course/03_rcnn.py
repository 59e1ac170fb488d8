# %% [markdown]
# # Lesson 3: R-CNN to Faster R-CNN
#
# R-CNN ([Girshick et al. 2014](https://arxiv.org/abs/1311.2524)) classifies about 2,000 proposals per image, each cut out
# and run through a network of its own. Fast R-CNN ([Girshick 2015](https://arxiv.org/abs/1504.08083)) runs the
# convolutions once per image and cuts regions out of the map. Faster R-CNN
# ([Ren et al. 2015](https://arxiv.org/abs/1506.01497)) makes the proposals with the same map, from *anchors*.
#
# ## The idea
#
# All three refine boxes. A region is only near the object, so the network predicts offsets from it. For a region with
# center $(p_x, p_y)$ and size $(p_w, p_h)$, and an object $(g_x, g_y, g_w, g_h)$,
#
# $$t_x = \frac{g_x - p_x}{p_w}, \quad t_y = \frac{g_y - p_y}{p_h}, \quad t_w = \log \frac{g_w}{p_w}, \quad
# t_h = \log \frac{g_h}{p_h}$$
#
# These do not depend on the size of the region, and any real number is valid.
#
# A detector is measured by its average precision (AP). Detections are ranked by score; each prefix of the ranking has a
# precision and a recall, and AP is the area under the precision over the recall. The precision is interpolated:
# $p(r) = \max_{r' \geq r} p(r')$.
#
# ## The code

# %%
import torch

from darkroom.callbacks.plotting.boxes import mark_boxes
from darkroom.callbacks.plotting.curves import curves
from darkroom.callbacks.plotting.grids import contact_sheet
from darkroom.course.notebook import show, show_source
from darkroom.datamodules.shapes.detection import ShapesDetection
from darkroom.lightning_modules.detection.boxes import clip, decode, encode, match, sample_rois, warp
from darkroom.lightning_modules.detection.metrics import average_precisions

# %%
show_source(encode, decode, sample_rois, warp, average_precisions)

# %% [markdown]
# `encode` divides offsets by their standard deviations, so that all losses have a similar scale. `sample_rois` chooses the
# regions of a training step: a quarter objects, the rest background. The detectors are
# [`RCNN`](<code:lightning_modules/detection/rcnn/rcnn.py#RCNN>),
# [`FastRCNN`](<code:lightning_modules/detection/fast_rcnn.py#FastRCNN>) and
# [`FasterRCNN`](<code:lightning_modules/detection/faster_rcnn.py#FasterRCNN>).
#
# ## Experiment 1: from anchors to boxes
#
# For each object, take the anchor with the highest IoU of a grid of anchors, and apply a fraction of the right offsets.

# %%
data = ShapesDetection(side=128, objects=(2, 4), test_size=200)
scenes = data.dataset("test").__getitems__(range(200))
centers = torch.arange(8.0, 128, 16)
sides, ratios = torch.tensor([20.0, 40.0, 60.0]), torch.tensor([0.5, 1.0, 2.0])
heights, widths = (sides[:, None] * ratios.sqrt()).flatten(), (sides[:, None] / ratios.sqrt()).flatten()
y, x = torch.meshgrid(centers, centers, indexing="ij")
middle = torch.stack([x, y], -1).view(-1, 1, 2)
half = torch.stack([widths, heights], -1) / 2
anchors = torch.cat([middle - half, middle + half], -1).view(-1, 4)
print(
    f"{len(anchors)} anchors, {int((clip(anchors, (128, 128)) != anchors).any(1).sum())} of them reach beyond the image"
)

rows = {f"{fraction:.0%} of the offsets": [] for fraction in (0.0, 0.5, 1.0)}
for image, target in zip(scenes["image"][:5], scenes["target"][:5], strict=True):
    boxes = target["boxes"].float()
    best = match(boxes, anchors)[1]
    offsets = encode(boxes, anchors[best])
    for fraction, row in zip((0.0, 0.5, 1.0), rows.values(), strict=True):
        refined = clip(decode(fraction * offsets, anchors[best]), (128, 128))
        row.append(mark_boxes(image, {"boxes": refined, "labels": target["labels"]}, list(data.class_names)))
show(
    contact_sheet(rows, side=150),
    "03_offsets",
    "Five scenes: the best anchor of each object, the box after half of the offsets, and the object's own box.",
)

# %% [markdown]
# ## Experiment 2: average precision
#
# Simulate a detector: each object is found with a probability, and there are false alarms with lower scores.

# %%
torch.manual_seed(0)
objects, found = 60, 45
scores = torch.cat([0.6 + 0.25 * torch.randn(found), 0.35 + 0.25 * torch.randn(80)])
right = torch.cat([torch.ones(found), torch.zeros(80)]).bool()[scores.argsort(descending=True)]
precision = right.cumsum(0) / torch.arange(1, len(right) + 1)
recall = right.cumsum(0) / objects
best = precision.flip(0).cummax(0).values.flip(0)
area, eleven = average_precisions(right, objects)
raw = float(precision[right].sum() / objects)
print(f"AP {area:.4f}, at eleven recalls (VOC 2007) {eleven:.4f}, without interpolation {raw:.4f}")
show(
    curves(
        [torch.stack([recall, precision], 1), torch.stack([recall, best], 1)],
        ["precision", "interpolated"],
        axes=("recall", "precision"),
    ),
    "03_precision",
    "Precision over recall is a saw; the interpolated precision is a staircase above it that only falls.",
)

# %% [markdown]
# The curve ends at a recall of 0.75, since a quarter of the objects was not found at any score: AP is at most 0.75 here.
# The definitions of VOC 2007, of VOC from 2010 on, and of COCO (101 recalls, ten thresholds of IoU) give different numbers.
#
# ## What goes wrong
#
# Anchors at the border reach beyond the image. If they are clipped before the offsets are applied, the offsets are from
# other boxes than in training. Only objects at the border suffer, so the mean metric hides it:

# %%
errors = {"decode, then clip": [], "clip, then decode": []}
for target in scenes["target"]:
    boxes = target["boxes"].float()
    best = match(boxes, anchors)[1]
    outside = (clip(anchors[best], (128, 128)) != anchors[best]).any(1)
    offsets, chosen = encode(boxes, anchors[best])[outside], anchors[best][outside]
    first = clip(decode(offsets, chosen), (128, 128))
    second = clip(decode(offsets, clip(chosen, (128, 128))), (128, 128))
    for values, refined in zip(errors.values(), (first, second), strict=True):
        values.append((refined - boxes[outside]).abs().flatten())
for name, values in errors.items():
    print(f"{name}: mean error of a side {torch.cat(values).mean():.2f} pixels, largest {torch.cat(values).max():.2f}")
