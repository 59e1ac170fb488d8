"""Training steps and predictions at the widths of the papers, of methods without a peer here."""

from dataclasses import replace
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
# Images of a training batch, 1 for the others: batch norm after fc6 needs more than one value per channel.
IMAGES = {"deconvnet_windows": 2}
CLASSES = 1000  # of ImageNet, whose folder is not needed
_NOTE = (
    "A batch has one image, or the number in the name of its side, with all of its windows or regions. Weights are 0, "
    "which does not change the time of layers, but detectors find nothing to suppress. No peer is measured beside them."
)


def _sides(recipe: str, options: Options) -> list[Side]:
    """Return the training step of a recipe, and its prediction for one image."""
    words = ["--config", str(RECIPES / f"{recipe}.yaml")]
    built = build_config(words, CLASSES if recipe.startswith("classification") else None)
    name, model = recipe.rpartition("/")[2], built.model
    one, images = BatchShape(images=1), IMAGES.get(name, 1)
    fill_weights(model)
    optimizers = detach_from_trainer(model, one.words)
    classes = vars(model).get("num_classes") or 1
    several, image = (make_batch(built.data, replace(one, images=n), classes) for n in (images, 1))
    precision = "bf16-mixed" if options.dtype == "bfloat16" else "32-true"

    def train() -> None:
        train_step(model.train(), optimizers, several, precision)

    def predict() -> object:
        return model.eval().predict_step(image, 0)

    training = f"{name}: training" + (f", {images} images" if images > 1 else "")
    return [
        side_of(training, model.networks(), train, images, options),
        side_of(f"{name}: prediction", model.networks(), without_gradients(predict, options), 1, options),
    ]


def _compare(title: str, recipes: tuple[str, ...], options: Options) -> Result:
    sides = [side for recipe in recipes for side in _sides(recipe, options)]
    return compare(f"{title}, the papers' recipes", sides, options, [_NOTE])


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
