"""Results of a test of an autoencoder."""

from pathlib import Path

import numpy as np
import pytest
import torch

from darkroom.callbacks.results.recorder import ResultRecorder
from darkroom.datamodules.shapes.images import ShapesImages
from darkroom.lightning_modules.autoencoding import VAE, AutoEncoder
from darkroom.runtime.records.results import read_results
from darkroom.runtime.records.tables import numbers
from tests.contracts.module import trainer


@pytest.mark.parametrize("kind", [AutoEncoder, VAE])
def test_rows_have_squared_error_of_reconstruction(tmp_path: Path, kind: type[AutoEncoder | VAE]) -> None:
    torch.manual_seed(0)
    options = {"train_size": 4, "test_size": 7, "side": 16, "eval_batch_size": 3, "num_workers": 0}
    data = ShapesImages(mean=(0.5,) * 3, std=(0.5,) * 3, **options)
    model = kind(image_shape=(3, 16, 16), latent_dim=2, architecture="mlp", hidden=(8,))
    (metrics,) = trainer(tmp_path, callbacks=[ResultRecorder(worst=2)]).test(model, data, verbose=False)
    results = read_results(tmp_path)
    assert results is not None
    assert results.summary.task == "autoencoding"
    errors = numbers(results.tables["samples"]["error"])
    assert errors.mean() == pytest.approx(metrics["test/squared_error"], rel=1e-5)
    data.setup("test")
    (batch,) = (
        data.on_after_batch_transfer(batch) for batch in [data.test_dataloader().dataset.__getitems__(range(7))]
    )
    expected = (model.reconstruct(batch["image"]) - batch["image"]).square().sum((1, 2, 3))
    assert errors == pytest.approx(expected.numpy(), rel=1e-4)
    worst = np.argsort(-errors)[:2]
    assert [number for number in range(7) if results.image(number)] == sorted(worst.tolist())
