"""Training steps and predictions at the widths of the papers, of methods without a peer here; one image."""

from pathlib import Path

from benchmarks.speed.harness import Options, Result, Side, compare, entry, side_of, without_gradients
from darkroom.cli.building.plan_build import build_config
from darkroom.plan.counting.batch import BatchShape, make_batch
from darkroom.plan.counting.step import detach_from_trainer, train_step
from darkroom.plan.counting.weights import fill_weights

RECIPES = Path(__file__).parents[2] / "configs" / "paper"
SEGMENTATION = ("convolutionalized", "fcn8s", "deconvnet_windows", "dilated_front_end", "unet")
DETECTION = ("sliding_window", "rcnn", "fast_rcnn", "yolo")
OTHERS = ("classification/alexnet_imagenet", "autoencoding/vae", "autoencoding/conditional_vae")
CLASSES = 1000  # of ImageNet, whose folder is not needed
_NOTE = (
    "Weights are 0, which does not change the time of layers, but detectors find nothing to suppress. A batch has one "
    "image, with all of its windows or regions. No peer is measured beside them."
)


def _sides(recipe: str, options: Options) -> list[Side]:
    """Return the training step of a recipe, and its prediction, on a batch of one image."""
    words = ["--config", str(RECIPES / f"{recipe}.yaml")]
    built = build_config(words, CLASSES if recipe.startswith("classification") else None)
    model, shape = built.model, BatchShape(images=1)
    fill_weights(model)
    optimizers = detach_from_trainer(model, shape.words)
    batch = make_batch(built.data, shape, vars(model).get("num_classes") or 1)
    precision = "bf16-mixed" if options.dtype == "bfloat16" else "32-true"

    def train() -> None:
        train_step(model.train(), optimizers, batch, precision)

    def predict() -> object:
        return model.eval().predict_step(batch, 0)

    name, networks = recipe.rpartition("/")[2], model.networks()
    sides = [side_of(f"{name}: training", networks, train, 1, options)]
    return [*sides, side_of(f"{name}: prediction", networks, without_gradients(predict, options), 1, options)]


def _compare(title: str, recipes: tuple[str, ...], options: Options) -> Result:
    sides = [side for recipe in recipes for side in _sides(recipe, options)]
    return compare(f"{title}, the papers' recipes, one image", sides, options, [_NOTE])


@entry
def paper_segmentation_steps(options: Options) -> Result:
    """Measure training steps and predictions of segmentation at the papers' widths."""
    return _compare("Segmentation", tuple(f"segmentation/{name}" for name in SEGMENTATION), options)


@entry
def paper_detection_steps(options: Options) -> Result:
    """Measure training steps and predictions of detectors without a peer at the papers' widths."""
    return _compare("Detection", tuple(f"detection/{name}" for name in DETECTION), options)


@entry
def paper_other_steps(options: Options) -> Result:
    """Measure training steps and predictions of AlexNet and of the VAEs at the papers' widths."""
    return _compare("Classification and autoencoding", OTHERS, options)
