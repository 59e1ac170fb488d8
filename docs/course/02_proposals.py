# %% [markdown]
# # Lesson 2: Sliding windows and proposals
#
# A classifier says *what* an image shows. A detector also says *where*. The oldest way is to classify many windows of the
# image. This lesson asks how many windows that takes, and how to choose fewer.
#
# ## The idea
#
# A window of side $w$ that slides over an image of $H \times W$ pixels with stride $s$ has
#
# $$\left( \left\lfloor \frac{H - w}{s} \right\rfloor + 1 \right) \left( \left\lfloor \frac{W - w}{s} \right\rfloor
# + 1 \right)$$
#
# positions. Objects have different sizes and shapes, so there are several windows for each position. A window that is
# shifted still covers the object partly; the intersection over union (IoU) measures how well:
#
# $$\mathrm{IoU}(A, B) = \frac{|A \cap B|}{|A \cup B|}$$
#
# Many windows find the same object. Non-maximum suppression (NMS) keeps the best and removes those that overlap it.
#
# *Proposals* are windows that probably hold some object. Selective Search (Uijlings et al. 2013) merges regions of similar
# colour, and proposes the box of each. Their quality is the recall: the fraction of objects that one of them covers.
#
# ## The code

# %%
import torch
from torchvision.ops import box_iou, nms

from darkroom.callbacks.plotting.boxes import mark_boxes
from darkroom.callbacks.plotting.curves import curves
from darkroom.callbacks.plotting.grids import contact_sheet
from darkroom.course.notebook import show, show_source
from darkroom.datamodules.proposals.methods import GridProposals, order_boxes
from darkroom.datamodules.proposals.recall import recall
from darkroom.datamodules.shapes.detection import ShapesDetection
from darkroom.lightning_modules.detection.sliding_window import WindowClassifier

# %%
show_source(GridProposals.candidates, recall, WindowClassifier)

# %% [markdown]
# `WindowClassifier` has no padding, so it can run over the whole image at once: lesson 5. Selective Search is
# [`SelectiveSearch`](<code:datamodules/proposals/methods.py#SelectiveSearch>), which needs OpenCV.
#
# ## Experiment 1: how many windows?

# %%
data = ShapesDetection(side=128, test_size=200)
scenes = data.dataset("test").__getitems__(range(200))
truths = [target["boxes"].numpy() for target in scenes["target"]]
image = scenes["image"][0].permute(1, 2, 0).numpy()

series, names = [], []
for stride in (0.5, 0.25, 0.125):
    boxes = GridProposals(stride=stride, limit=None).candidates(image)
    boxes = order_boxes(boxes)
    counts = [count for count in (10, 30, 100, 300, 1000, 3000, 10_000) if count <= len(boxes)] + [len(boxes)]
    rows = recall([boxes] * len(truths), truths, counts=counts, thresholds=(0.5, 0.7))
    series.append(torch.tensor([[float(row.count), row.recall[0.7]] for row in rows]))
    names.append(f"stride {stride:g} of the window")
    last = rows[-1].recall
    print(f"stride {stride:5}: {len(boxes):6} windows, recall {last[0.5]:.3f} at IoU .5, {last[0.7]:.3f} at IoU .7")
show(
    curves(series, names, axes=("windows per image", "recall at IoU .7"), log_x=True),
    "02_recall",
    "Recall at IoU .7 rises with the number of windows; a finer stride reaches a higher recall with many more windows.",
)

# %% [markdown]
# Windows at a stride of half their side find every object at an IoU of .5, but few at .7. So it takes thousands of windows
# for one to five objects. Nearly all windows are background, so a classifier with few false alarms per window still has
# many per image.
#
# ## Experiment 2: non-maximum suppression
#
# Give each window the score of a good classifier: its IoU with the nearest object, plus noise.

# %%
generator = torch.Generator().manual_seed(0)
boxes = torch.tensor(GridProposals(stride=0.25, limit=None).candidates(image)).float()
before, after = [], []
for scene, target in zip(scenes["image"][:5], scenes["target"][:5], strict=True):
    overlap, nearest = box_iou(boxes, target["boxes"].float()).max(1)
    scores = (overlap + 0.05 * torch.randn(len(boxes), generator=generator)).clamp(0, 1)
    found = {"boxes": boxes, "scores": scores, "labels": target["labels"][nearest]}
    above = (scores > 0.6).nonzero().flatten()
    kept = above[nms(boxes[above], scores[above], 0.3)]
    before.append(mark_boxes(scene, {name: value[above] for name, value in found.items()}, [""] * 5))
    after.append(mark_boxes(scene, {name: value[kept] for name, value in found.items()}, list(data.class_names)))
show(
    contact_sheet({"score > 0.6": before, "after NMS": after}, side=150),
    "02_nms",
    "Five scenes: many overlapping windows around each object, and one for each after non-maximum suppression.",
)

# %% [markdown]
# ## What goes wrong
#
# NMS is greedy, in the order of scores: a box that is removed must not remove others. A version that compares all pairs at
# once is shorter and faster, and loses objects in a row, each of which overlaps the next:

# %%
row = torch.tensor([[x, 0.0, x + 20.0, 10.0] for x in (0.0, 10.0, 20.0, 30.0)])
scores = torch.tensor([0.9, 0.8, 0.7, 0.6])
pairs = (box_iou(row, row) > 0.2).triu(diagonal=1).any(0)
print(f"greedy: {nms(row, scores, 0.2).tolist()}, all pairs at once: {(~pairs).nonzero().flatten().tolist()}")
