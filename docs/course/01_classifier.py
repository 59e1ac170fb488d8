# %% [markdown]
# # Lesson 1: Image classification
#
# A classifier maps an image to a class. Every later lesson builds on it: a detector is a classifier of many places, a
# segmentation one of every pixel, and features of classifiers start most other methods.
#
# ## The idea
#
# A network of convolutions computes a map of features, their mean over all places goes through one linear layer, and the
# result is a *logit* for each of $K$ classes. The softmax turns logits $s$ into probabilities, and training minimizes the
# cross-entropy, the negative logarithm of the probability of the true class $y$:
#
# $$p_k = \frac{e^{s_k}}{\sum_j e^{s_j}}, \qquad L = -\log p_y = \log \sum_j e^{s_j} - s_y$$
#
# Before training the classes are about equally likely, and $L$ is near $\log K$. A first loss that is far above it has a
# reason: logits that are too large, or labels that do not belong to the images.
#
# ## The code

# %%
import math

import torch

from darkroom.callbacks.plotting.curves import curves
from darkroom.callbacks.plotting.grids import image_grid
from darkroom.callbacks.plotting.images import overlay_heat
from darkroom.callbacks.plotting.matrix import matrix
from darkroom.course.notebook import show, show_source
from darkroom.datamodules.shapes.images import ShapesImages
from darkroom.lightning_modules.classification.grad_cam import grad_cam
from darkroom.lightning_modules.classification.image_classifier import ImageClassifier
from darkroom.lightning_modules.classification.metrics import ClassificationScores
from darkroom.lightning_modules.classification.networks import BackboneClassifier

# %%
show_source(BackboneClassifier.forward, ImageClassifier.training_step, ClassificationScores.compute)

# %% [markdown]
# `training_step` gives logits to `cross_entropy`, which contains the softmax. The metrics are computed from one confusion
# matrix of the whole set, so they do not depend on the batch size.
#
# ## Experiment: five kinds of shapes
#
# The data are 32x32 images of one shape on a textured background, at any angle.

# %%
source = ShapesImages(side=32, background="textured", upright=False, train_size=4096, test_size=512)
train = source.dataset("train").__getitems__(range(4096))
test = source.dataset("test").__getitems__(range(512))
names = list(source.class_names)


def normalize(images):
    return (images / 255 - 0.4) / 0.25


def fit(loss_of, epochs=5):
    """Train a small VGG; return it and the losses of all steps."""
    torch.manual_seed(0)
    network = BackboneClassifier("vgg11_bn", num_classes=5, image_shape=(3, 32, 32), width=0.125)
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * 64)
    losses = []
    for _ in range(epochs):
        for chosen in torch.randperm(4096).split(64):
            loss = loss_of(network(normalize(train["image"][chosen])), train["label"][chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
    return network.eval(), torch.tensor(losses)


network, losses = fit(torch.nn.functional.cross_entropy)
print(f"first loss {losses[0]:.3f}, log K = {math.log(5):.3f}, mean of the last 32 losses {losses[-32:].mean():.3f}")

# %%
with torch.no_grad():
    logits = network(normalize(test["image"]))
scores = ClassificationScores(5, names)
scores.update(logits, test["label"])
print(f"test accuracy {scores.compute()['accuracy']:.3f}")
show(
    matrix(scores.confusion, names, names, title="512 test images", width=4.5),
    "01_confusion",
    "Confusion matrix of five kinds of shapes; most images are on the diagonal.",
)

# %% [markdown]
# A row is a true class. Read the confusion matrix before the accuracy: it says *which* classes are confused.
#
# ## Where does it look?
#
# Grad-CAM ([Selvaraju et al. 2017](https://arxiv.org/abs/1610.02391)) weights the maps of a layer by the mean gradient of a
# logit and adds them: the places that raise the logit. The maps have 8x8 cells here.

# %%
show_source(grad_cam)

# %%
wrong = (logits.argmax(1) != test["label"]).nonzero().flatten()[:4].tolist()
right = (logits.argmax(1) == test["label"]).nonzero().flatten()[:5].tolist()
chosen = right + wrong
predicted = logits.argmax(1)[chosen]
heat = grad_cam(network, normalize(test["image"][chosen]), predicted, smallest=8)
images = [test["image"][index] for index in chosen]
captions = [f"{names[int(test['label'][i])]} → {names[int(p)]}" for i, p in zip(chosen, predicted, strict=True)]
page = image_grid(
    [images, [overlay_heat(image, one) for image, one in zip(images, heat, strict=True)]],
    ["image", "Grad-CAM"],
    captions=[(), captions],
    smallest=96,
)
show(page, "01_gradcam", "Test images with the heat map of the predicted class below each.")

# %% [markdown]
# Below each column: true class → predicted class. The first five are right, the others wrong.
#
# ## What goes wrong
#
# `cross_entropy` takes logits. A network that ends with a softmax, trained with it, applies the softmax twice.
# Probabilities in $[0, 1]$ are then used as logits, so even a perfect prediction has the loss $-\log(e / (e + K - 1)) =
# 0.905$ for $K = 5$. It trains, and nothing but the loss says that something is wrong. Libraries had this fault too:
# [Lightning Bolts, issue 654](https://github.com/Lightning-Universe/lightning-bolts/issues/654).

# %%
broken, broken_losses = fit(lambda logits, labels: torch.nn.functional.cross_entropy(logits.softmax(1), labels))
smooth = [one.unfold(0, 16, 16).mean(1) for one in (losses, broken_losses)]
steps = torch.arange(len(smooth[0])) * 16.0
show(
    curves(
        [torch.stack([steps, one], 1) for one in smooth],
        ["logits", "softmax applied twice"],
        axes=("training steps", "training loss (nats)"),
    ),
    "01_losses",
    "The loss of the right version falls towards zero; that of the broken version stays above 0.905.",
)
with torch.no_grad():
    accuracy = (broken(normalize(test["image"])).argmax(1) == test["label"]).float().mean()
print(f"test accuracy of the broken version {accuracy:.3f}")
