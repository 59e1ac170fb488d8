"""ConditionalVAE: labels are required and reach both networks."""

from typing import Any

import pytest
import torch

from darkroom.errors import UsageError
from darkroom.lightning_modules.autoencoding import ConditionalVAE
from tests.contracts.generation import GenerationContract


class TestConditionalVAE(GenerationContract):
    num_classes = 5
    overfit_loss = ("reconstruction", 450.0)

    def build(self, **kwargs: Any) -> ConditionalVAE:
        torch.manual_seed(0)
        return ConditionalVAE(self.image_shape, self.num_classes, latent_dim=4, channels=(8, 16), **kwargs)


class TestConditionalVAEOfMLPs(TestConditionalVAE):
    test_overfits_one_batch = None  # trains as TestConditionalVAE does
    test_exported_files_predict_as_model = None  # TestConditionalVAE exports

    def build(self, **kwargs: Any) -> ConditionalVAE:
        torch.manual_seed(0)
        return ConditionalVAE(self.image_shape, 5, 4, "mlp", hidden=(16,), iwae_samples=3, **kwargs)


class TestConditionalVAEWithMixture(TestConditionalVAE):
    test_overfits_one_batch = None  # trains as TestConditionalVAE does

    def build(self, **kwargs: Any) -> ConditionalVAE:
        torch.manual_seed(0)
        options = {"latent_dim": 4, "channels": (8, 16), "code_components": 2}
        return ConditionalVAE(self.image_shape, self.num_classes, **options, **kwargs)


def test_samples_have_codes_of_their_class() -> None:
    model = TestConditionalVAEWithMixture().build().eval()
    labels = torch.arange(400) % 5
    model.codes.update(labels[:, None] * torch.ones(4) + 0.01 * torch.randn(400, 4), labels)
    model.codes.fit()
    for label in range(5):
        latents = model.draw_latents(20, torch.Generator().manual_seed(0), torch.full((20,), label))
        torch.testing.assert_close(latents, torch.full((20, 4), float(label)), atol=0.1, rtol=0)


def test_one_code_gives_an_image_per_class() -> None:
    model = TestConditionalVAE().build().eval()
    z = model.draw_latents(1).expand(5, -1)
    samples = model.decode(z, labels=torch.arange(5))
    assert len(samples.flatten(1).unique(dim=0)) == 5


def test_importance_samples_keep_their_labels() -> None:
    model, x, labels = TestConditionalVAE().build().eval(), TestConditionalVAE().images(5), torch.arange(5)
    mean = model.encode(x, labels=labels)
    certain = torch.full_like(mean, -100.0)  # no noise, so all samples are equal
    likelihoods, _ = model.log_weights(x, mean, certain, 4, labels)
    expected = model.likelihood.log_prob(model.likelihood_parameters(mean, labels), x)
    torch.testing.assert_close(likelihoods, expected.expand(4, 5), rtol=1e-4, atol=1e-2)


def test_labels_are_required() -> None:
    model = TestConditionalVAE().build().eval()
    with pytest.raises(UsageError, match="no 'label'"):
        model.evaluate({"image": torch.zeros(2, 3, 16, 16)}, "val")
    with pytest.raises(UsageError, match="model.num_classes is missing"):
        ConditionalVAE((3, 16, 16))
