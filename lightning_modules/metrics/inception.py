"""Inception: the feature network of the published FID, KID and Inception scores."""

from importlib.util import find_spec
from pathlib import Path

from torch import Tensor

from darkroom.errors import UsageError
from darkroom.lightning_modules.metrics.feature_network import ClassifyingFeatureNetwork
from darkroom.lightning_modules.utils.safe_load import Damaged, read_safely
from darkroom.paths import install_command

_ADDRESS = "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"


class Inception(ClassifyingFeatureNetwork):
    """Inception v3 with the weights of 2015-12-05, by torch-fidelity, as in Heusel et al. 2017: features of the last
    pooling, images scaled to 299 x 299 without antialias.

    Args:
        weights: file with the published weights; None: torch-fidelity downloads them (91 MB) once.

    Raises:
        UsageError: torch-fidelity or the weights are missing.
    """

    num_features = 2048
    prefix = ""

    def __init__(self, weights: str | None = None) -> None:
        super().__init__()
        if find_spec("torch_fidelity") is None:
            raise UsageError(
                f"model.scores.features is inception, which needs the package torch-fidelity: {install_command('fid')} "
                "(or use features mobilenet, whose metrics have other names)"
            )
        from torchmetrics.image.fid import NoTrainInceptionV3

        remedy = f"download {_ADDRESS} and set model.scores.inception_weights to the file"
        if weights is not None:
            _check(Path(weights).expanduser(), remedy)
            weights = str(Path(weights).expanduser())
        try:
            self.network = NoTrainInceptionV3("inception-v3-compat", ["2048"], weights, antialias=False)
        except OSError as error:
            raise UsageError(f"Inception's weights cannot be downloaded ({error}); {remedy}") from error
        except RuntimeError as error:
            raise UsageError(
                f"model.scores.inception_weights: {weights} does not hold Inception's weights ({error}); {remedy}"
            ) from error

    def features(self, images: Tensor) -> Tensor:
        """Compute features (B, 2048) of images, uint8 (B, 3 or 1, H, W); grey images are repeated to three channels."""
        return self.network(images.expand(-1, 3, -1, -1))

    def logits(self, features: Tensor) -> Tensor:
        """Compute logits (B, 1008) of features (B, 2048), without bias as in the published Inception scores."""
        return features @ self.network.fc.weight.T


def _check(path: Path, remedy: str) -> None:
    """Raise a UsageError for a file that is missing, or would run code when torch-fidelity loads it."""
    try:
        read_safely("model.scores.inception_weights:", path)
    except Damaged as error:
        raise UsageError(f"{error}; {remedy}") from error
