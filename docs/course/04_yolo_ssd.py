# %% [markdown]
# # Lesson 4: YOLO and SSD
#
# Two-stage detectors classify regions one by one. YOLO ([Redmon et al. 2016](https://arxiv.org/abs/1506.02640)) and SSD
# ([Liu et al. 2016](https://arxiv.org/abs/1512.02325)) predict all boxes and classes in one pass of one network.
#
# ## The idea
#
# The outputs of the network have fixed places, and training needs a target for each of them. So the question of this lesson
# is: *which output is responsible for which object?*
#
# - **YOLO** divides the image into $S \times S$ cells. The cell with the center of an object is responsible. It predicts
#   the center within the cell, and the size in sides of the image.
# - **SSD** places *default boxes* of several sizes and shapes on every cell of several maps. A default box is responsible
#   for the object that it overlaps most, if $\mathrm{IoU} > 0.5$. It predicts offsets from itself.
#
# $$\mathrm{IoU}(A, B) = \frac{|A \cap B|}{|A \cup B|}$$
#
# Several outputs find the same object. Non-maximum suppression (NMS) keeps the best of them, within each class.
#
# ## The code

# %%
import torch
from torchvision.ops import batched_nms, nms

from darkroom.callbacks.plotting.boxes import mark_boxes
from darkroom.callbacks.plotting.curves import curves
from darkroom.callbacks.plotting.grids import contact_sheet
from darkroom.course.notebook import show, show_source
from darkroom.course.random_boxes import random_boxes
from darkroom.datamodules.shapes.detection import ShapesDetection
from darkroom.lightning_modules.detection.boxes import keep_best
from darkroom.lightning_modules.detection.ssd import SSD, assign, select_hard_negatives
from darkroom.lightning_modules.detection.yolo import encode

# %%
show_source(encode, assign, select_hard_negatives, keep_best)

# %% [markdown]
# `encode` keeps one object per cell, the largest: a limit of YOLO that SSD does not have. `assign` has a second rule: each
# object gets at least one default box, its best, whatever the IoU. Nearly all default boxes are background, so SSD trains
# on the three *hardest* negatives for each positive one.
#
# ## Experiment 1: default boxes

# %%
data = ShapesDetection(side=128, objects=(3, 5), test_size=400)
scenes = data.dataset("test").__getitems__(range(400))
torch.manual_seed(0)
ssd = SSD(num_classes=5, image_size=128, width=0.125, sizes=[12, 24, 40, 60, 80, 100])
default_boxes = ssd.network.default_boxes
print(f"{len(default_boxes)} default boxes")

matched = []
for image, target in zip(scenes["image"][:5], scenes["target"][:5], strict=True):
    index = assign(default_boxes, target["boxes"])
    chosen = index >= 0
    objects = {"boxes": default_boxes[chosen], "labels": target["labels"][index[chosen]]}
    matched.append(mark_boxes(image, objects, ["", "", "", "", ""]))
truth = [
    mark_boxes(image, target, data.class_names)
    for image, target in zip(scenes["image"][:5], scenes["target"][:5], strict=True)
]
show(
    contact_sheet({"objects": truth, "matched boxes": matched}),
    "04_matches",
    "Five scenes: above the true boxes, below the default boxes that are matched to each object, in its colour.",
)

# %%
sides, counts = [], []
for target in scenes["target"]:
    index = assign(default_boxes, target["boxes"])
    sides += (target["boxes"][:, 2:] - target["boxes"][:, :2]).prod(1).sqrt().tolist()
    counts += [int((index == number).sum()) for number in range(len(target["boxes"]))]
sides, counts = torch.tensor(sides), torch.tensor(counts).float()
points = []
for low in range(8, 56, 4):
    inside = (sides >= low) & (sides < low + 4)
    if inside.sum() > 5:
        points.append([low + 2.0, float(counts[inside].mean())])
show(
    curves(
        [torch.tensor(points)],
        [""],
        axes=("side of the object (pixels)", "matched default boxes per object (mean)"),
    ),
    "04_matches_by_size",
    "The mean number of matched default boxes per object, by the size of the object.",
)
positive = int(counts.sum())
print(f"positive: {positive} of {400 * len(default_boxes)} default boxes, 1 in {400 * len(default_boxes) // positive}")

# %% [markdown]
# The number of matches goes up and down with the size: it is high near the sizes of the default boxes, and low between
# them. Without hard negative mining, nearly all terms of the loss would be those of the background.
#
# ## Experiment 2: cells of YOLO
#
# How often do two objects share a cell, so that one of them is lost in training?

# %%
for grid in (2, 4, 7, 14):
    _, labels = encode(scenes["target"], [(128, 128)] * 400, grid)
    total = sum(len(target["labels"]) for target in scenes["target"])
    print(f"grid {grid:2}: {total - int((labels > 0).sum()):4} of {total} objects have no cell of their own")

# %% [markdown]
# ## What goes wrong
#
# NMS must run within each class. If it runs over all boxes at once, an object suppresses one of another class behind it:
# a rider suppresses the horse. A known detector had this fault
# ([google/automl, issue 450](https://github.com/google/automl/issues/450)). Images with few objects do not show this. Take
# crowded images, with one perfect detection for each of twelve objects of five classes:

# %%
generator = torch.Generator().manual_seed(0)
found = {"within classes": 0, "across classes": 0}
for _ in range(200):
    boxes, scores = random_boxes(generator, 12), torch.rand(12, generator=generator)
    labels = torch.randint(1, 6, (12,), generator=generator)
    found["within classes"] += len(batched_nms(boxes, scores, labels, 0.5))
    found["across classes"] += len(nms(boxes, scores, 0.5))
for name, count in found.items():
    print(f"NMS {name}: {2400 - count} of 2400 objects are lost")
