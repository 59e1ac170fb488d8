"""Fast R-CNN: loss and sampling of the paper, and one feature map for all regions."""

from typing import Any, get_args

import pytest
import torch
from torch import nn

from darkroom.datamodules.proposals.methods import GridProposals
from darkroom.datamodules.shapes.detection import ShapesDetection
from darkroom.errors import UsageError
from darkroom.lightning_modules.detection import FastRCNN, FastRCNNNetwork, fast_rcnn
from darkroom.lightning_modules.detection.boxes import encode
from darkroom.lightning_modules.detection.inference import DetectionInference
from darkroom.lightning_modules.layers.body import FeatureBackbone
from tests.contracts.detection import DetectionContract


class FastRCNNContract(DetectionContract):
    steps, lr = 80, 1e-3
    backbone, width = "vgg11_bn", 0.06

    def build(self, **kwargs: Any) -> FastRCNN:
        small = {"num_classes": 5, "backbone": self.backbone, "width": self.width, "min_side": 128, "max_side": 256}
        return FastRCNN(**{**small, **kwargs})

    def data(self, **kwargs: Any) -> ShapesDetection:
        return super().data(proposals=GridProposals(), proposals_dir="proposals", proposal_workers=0, **kwargs)


@pytest.mark.slow  # a variant: the method's own contract is in the unit lane
class TestFastRCNNOnMobileNet(FastRCNNContract):
    backbone, width = "mobilenet_v2", 0.1
    test_overfits_one_batch = None


class TestFastRCNN(FastRCNNContract):
    def test_missing_proposals_raise(self) -> None:
        model, batch = self.build(), self.batch()
        del batch["proposals"]
        with pytest.raises(UsageError, match="FastRCNN needs proposals.*data.proposals"):
            model.loss_terms(batch)

    def test_losses_and_detections_share_one_feature_map(self) -> None:
        model, batch, calls = self.build().eval(), self.batch(), []
        model.network.features.register_forward_hook(lambda *_: calls.append(1))
        with torch.inference_mode():
            model.evaluate(batch)
        assert len(calls) == 1

    def test_loss_matches_equation_1(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Compute the loss of 4 x 16 regions one by one: -log p_u, and for objects smooth L1 (eq. 3) of their offsets."""
        model, batch = self.build(rois_per_image=16).eval(), self.batch()
        samples, outputs = [], []
        sample, classify = fast_rcnn.sample_rois, model._classify
        monkeypatch.setattr(fast_rcnn, "sample_rois", lambda *a, **k: samples.append(sample(*a, **k)) or samples[-1])
        model._classify = lambda *arguments: outputs.append(classify(*arguments)) or outputs[-1]
        terms = model.loss_terms(batch)
        rois, labels, truth = (torch.cat(column) for column in zip(*samples, strict=True))
        ((logits, offsets),) = outputs
        assert len(labels) == 64
        assert (labels > 0).any()
        class_loss = box_loss = 0.0
        for index, u in enumerate(labels.tolist()):
            class_loss -= logits[index].log_softmax(0)[u].item()
            if u:
                (v,) = encode(truth[index : index + 1], rois[index : index + 1])
                far = (offsets[index, u - 1] - v).abs()
                box_loss += torch.where(far < 1, 0.5 * far**2, far - 0.5).sum().item()
        assert terms.keys() == {"class", "box"}
        assert terms["class"].item() == pytest.approx(class_loss / 64, rel=1e-4)
        assert terms["box"].item() == pytest.approx(box_loss / 64, rel=1e-4)

    def test_offsets_are_divided_by_given_deviations(self) -> None:
        """Check the loss, whose terms are halves of squares below 1, and that a bias moves a box by its deviation."""
        batch, doubled = self.batch(objects=(1, 1)), (0.2, 0.2, 0.4, 0.4)
        batch["proposals"] = [target["boxes"] + 0.3 for target in batch["target"]]
        models = [self.build().eval(), self.build(offset_deviations=doubled).eval()]
        models[1].load_state_dict(models[0].state_dict())
        for model in models:
            nn.init.zeros_(model.network.offsets.weight)
            model.limits = model.limits._replace(score_threshold=0.0)
        terms = [model.loss_terms(batch)["box"].item() for model in models]
        assert terms[0] == pytest.approx(4 * terms[1], rel=1e-4)
        for model, bias in zip(models, (0.1, 0.05), strict=True):
            nn.init.constant_(model.network.offsets.bias, bias)
        with torch.inference_mode():
            found, same = (model.detect(batch)[0]["boxes"] for model in models)
        torch.testing.assert_close(found, same)
        with pytest.raises(UsageError, match="model.offset_deviations must be four numbers above 0"):
            self.build(offset_deviations=(0.0, 1, 1, 1))

    def test_box_loss_is_smooth_l1(self) -> None:
        """Check equation 3: errors of 0, 0.5, 1 and -2 have losses 0, 0.125, 0.5 and 1.5."""
        model, batch = self.build().eval(), self.batch(objects=(1, 1))
        batch["proposals"] = [target["boxes"] for target in batch["target"]]  # so that every target is 0
        nn.init.zeros_(model.network.offsets.weight)
        model.network.offsets.bias.data = torch.tensor([0, 0.5, 1, -2]).repeat(5)
        assert model.loss_terms(batch)["box"].item() == pytest.approx(2.125)

    def test_background_region_without_area_has_finite_gradient(self) -> None:
        model, batch = self.build().eval(), self.batch(objects=(1, 1))
        point = torch.tensor([[5.0, 5, 5, 5]])  # its offsets to any box are not finite
        batch["proposals"] = [torch.cat([target["boxes"], point]) for target in batch["target"]]
        terms = model.loss_terms(batch)
        terms["box"].backward()
        assert terms["box"].isfinite()
        assert model.network.offsets.weight.grad.isfinite().all()

    def test_box_gradient_reaches_only_true_class(self) -> None:
        model, batch = self.build().eval(), self.batch(objects=(1, 1))
        only = int(batch["target"][0]["labels"][0])
        batch = {key: value[:1] for key, value in batch.items()}
        model.loss_terms(batch)["box"].backward()
        rows = model.network.offsets.weight.grad.view(5, 4, -1).abs().sum((1, 2))
        assert rows[only - 1] > 0
        assert rows[torch.arange(5) != only - 1].abs().max() == 0


def test_new_layers_are_initialized_as_in_paper() -> None:
    """Check section 2.3: Gaussians of deviation .01 and .001, biases 0."""
    network = FastRCNNNetwork(20, "vgg16", width=0.25)
    assert network.score.weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert network.offsets.weight.std().item() == pytest.approx(0.001, rel=0.05)
    assert network.score.bias.abs().max() == network.offsets.bias.abs().max() == 0


def test_gradient_of_roi_pooling_reaches_maxima_of_all_regions() -> None:
    """Check equation 4: a pixel gets the gradients of all cells of all regions in which it is the largest."""
    network = FastRCNNNetwork(1, "vgg11", width=0.01)
    network.pooled, network.hidden = 1, nn.Identity()
    network.score, network.offsets = nn.Identity(), nn.Linear(1, 4)
    maps = torch.tensor([[[[1.0, 2, 3], [4, 9, 5], [6, 7, 8]]]], requires_grad=True)
    regions = torch.tensor([[0.0, 0, 16, 16], [16, 16, 32, 32], [0, 0, 7, 7]])  # cells 0 to 1, 1 to 2, and 0
    pooled, _ = network.classify_regions(maps, [regions])
    assert pooled.flatten().tolist() == [9, 9, 1]
    (pooled.flatten() * torch.tensor([1.0, 10, 100])).sum().backward()
    assert maps.grad[0, 0].tolist() == [[100, 0, 0], [0, 11, 0], [0, 0, 0]]


def test_caffenet_classifies_regions_at_stride_16() -> None:
    with torch.device("meta"):
        network = FastRCNNNetwork(20, "caffenet")
        assert network.features(torch.empty(1, 3, 600, 1000)).shape == (1, 256, 36, 61)
        assert network.hidden(torch.empty(3, 256 * network.pooled**2)).shape == (3, 4096)


def test_vgg16_has_stride_16_and_pools_7_by_7() -> None:
    with torch.device("meta"):
        network = FastRCNNNetwork(20, "vgg16")
        assert network.features(torch.empty(1, 3, 608, 1008)).shape == (1, 512, 38, 63)
    assert network.pooled == 7
    assert sum(p.numel() for p in network.parameters()) == 138_357_544 - 4_097_000 + 4097 * 21 + 4097 * 80


@pytest.mark.parametrize("backbone", get_args(FeatureBackbone))
def test_region_of_whole_image_is_classified_as_the_image(backbone: FeatureBackbone) -> None:
    """Check that the regions' blocks continue the image's: RoI pooling of 14 x 14 cells to as many changes nothing."""
    network = FastRCNNNetwork(5, backbone, width=0.05).eval()
    network.score, network.offsets = nn.Identity(), nn.Linear(network.score.in_features, 20)
    image = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        pooled, _ = network(image, [torch.tensor([[0.0, 0, 13 * 16, 13 * 16]])])
        torch.testing.assert_close(pooled, network.features.last_map(image).mean((2, 3)))


def test_scores_do_not_depend_on_padding_of_batch() -> None:
    """Check that scores do not depend on the other images of a batch."""
    torch.manual_seed(0)
    every = DetectionInference(score_threshold=0.0)
    model = FastRCNN(num_classes=2, backbone="vgg11", width=0.06, min_side=64, max_side=128, inference=every).eval()
    image, proposals = torch.rand(3, 64, 64), torch.tensor([[5.0, 5, 40, 40], [20, 10, 60, 60]])
    with torch.inference_mode():
        alone = model.detect({"image": [image], "proposals": [proposals]})[0]
        padded = model.detect({"image": [image, torch.rand(3, 64, 120)], "proposals": [proposals, proposals]})[0]
    torch.testing.assert_close(alone["scores"], padded["scores"], atol=0.02, rtol=0)


def test_freeze_stops_gradients_of_first_convolutions() -> None:
    network = FastRCNNNetwork(5, "vgg16", width=0.03, freeze=4)
    frozen = [name for name, parameter in network.named_parameters() if not parameter.requires_grad]
    assert len(frozen) == 8
    with pytest.raises(UsageError, match="model.freeze must be 0 to 13, the convolutions of vgg16"):
        FastRCNNNetwork(5, "vgg16", width=0.03, freeze=14)
    network = FastRCNNNetwork(5, "mobilenet_v2", width=0.03, freeze=4)
    convolutions = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d)]
    assert [layer.weight.requires_grad for layer in convolutions] == [False] * 4 + [True] * 48


def test_unknown_backbone_names_the_choices() -> None:
    with pytest.raises(UsageError, match="model.backbone must be one of alexnet, .*mobilenet_v2, .*got 'resnet101'"):
        FastRCNNNetwork(5, "resnet101")
