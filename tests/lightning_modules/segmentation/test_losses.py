"""Contract of all losses, and each loss against its definition, torch or torchvision."""

from typing import Any

import pytest
import torch
from jsonargparse import ArgumentParser
from torch import Tensor, nn
from torch.nn import functional as F

from darkroom.errors import UsageError
from darkroom.lightning_modules.segmentation.losses import BorderWeighted, CrossEntropy, Dice, Focal, Lovasz, Sum
from darkroom.lightning_modules.segmentation.metrics import SegmentationScores


def batch() -> tuple[Tensor, Tensor]:
    """Return logits (3, 4, 8, 8) and a mask with ignored pixels and without class 3."""
    logits, mask = torch.randn(3, 4, 8, 8), torch.randint(0, 3, (3, 8, 8))
    mask[0, :2], mask[1, 5, 5] = 255, 255
    return logits, mask


def certain(mask: Tensor, num_classes: int = 4) -> Tensor:
    """Return logits of a certain prediction of ``mask``."""
    return 100 * F.one_hot(mask.where(mask != 255, 0), num_classes).movedim(-1, 1).float()


class LossContract:
    """Contract of every loss. Inherit, and define ``build``."""

    def build(self) -> nn.Module:
        raise NotImplementedError

    def needs(self, mask: Tensor) -> dict[str, Tensor]:
        """Return the inputs of forward besides logits and mask."""
        return {}

    def value(self, logits: Tensor, mask: Tensor, **needs: Tensor) -> Tensor:
        return self.build().to(logits.device)(logits, mask, **(needs or self.needs(mask)))

    def test_loss_is_scalar_with_finite_gradient(self) -> None:
        logits, mask = batch()
        loss = self.value(logits.requires_grad_(), mask)
        loss.backward()
        assert loss.shape == ()
        assert loss.dtype == torch.float32
        assert loss.item() > 0
        assert logits.grad.isfinite().all()
        assert logits.grad.abs().max() > 0

    def test_gradient_step_reduces_loss(self) -> None:
        logits, mask = batch()
        before = self.value(logits.requires_grad_(), mask)
        before.backward()
        with torch.no_grad():
            assert self.value(logits - 1e-2 * logits.grad / logits.grad.norm(), mask) < before

    def test_ignored_pixels_have_no_effect(self) -> None:
        logits, mask = batch()
        other = logits.clone()
        other.movedim(1, -1)[mask == 255] = 50 * torch.randn(4)
        other.requires_grad_()
        loss = self.value(other, mask)
        loss.backward()
        torch.testing.assert_close(loss.detach(), self.value(logits, mask))
        assert other.grad.movedim(1, -1)[mask == 255].abs().max() == 0

    def test_fully_ignored_mask_has_zero_loss_and_gradient(self) -> None:
        logits = torch.randn(2, 4, 4, 4, requires_grad=True)
        loss = self.value(logits, torch.full((2, 4, 4), 255))
        (65536 * loss).backward()  # as a GradScaler does
        assert loss.item() == 0
        assert logits.grad.abs().max() == 0

    def test_certain_correct_prediction_has_zero_loss(self) -> None:
        _, mask = batch()
        logits = certain(mask).requires_grad_()
        loss = self.value(logits, mask)
        loss.backward()
        assert loss.item() == pytest.approx(0, abs=1e-6)
        assert logits.grad.isfinite().all()

    def test_certain_wrong_prediction_costs_more_than_uniform(self) -> None:
        _, mask = batch()
        wrong = certain((mask + 1).where(mask != 255, 255)).requires_grad_()
        loss = self.value(wrong, mask)
        loss.backward()
        assert loss > self.value(torch.zeros_like(wrong), mask)
        assert wrong.grad.isfinite().all()

    def test_loss_does_not_depend_on_batch_order(self) -> None:
        (logits, mask), order = batch(), torch.tensor([2, 0, 1])
        needs = {key: value[order] for key, value in self.needs(mask).items()}
        torch.testing.assert_close(self.value(logits[order], mask[order], **needs), self.value(logits, mask))

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_half_precision_equals_float32(self, dtype: torch.dtype) -> None:
        logits, mask = batch()
        logits = (1000 * logits).to(dtype)
        expected = self.value(logits.float(), mask)
        with torch.autocast("cpu", dtype):
            assert torch.equal(self.value(logits, mask), expected)
        # bf16-true: half-precision weights and default dtype
        torch.set_default_dtype(dtype)
        try:
            assert torch.equal(self.build().to(dtype)(logits, mask, **self.needs(mask)), expected)
        finally:
            torch.set_default_dtype(torch.float32)

    def test_loss_does_not_synchronize(self) -> None:
        """Check with meta tensors, which have no values, so that any synchronization fails."""
        logits, mask = batch()
        needs = {key: value.to("meta") for key, value in self.needs(mask).items()}
        assert self.value(logits.to("meta"), mask.to("meta"), **needs).shape == ()

    def test_ignore_index_is_configurable(self) -> None:
        logits, mask = batch()
        loss = self.build()
        loss.ignore_index = 0
        changed = logits.clone()
        changed.movedim(1, -1)[mask == 0] = 7.0
        mask = mask.where(mask != 255, 0)
        torch.testing.assert_close(loss(logits, mask, **self.needs(mask)), loss(changed, mask, **self.needs(mask)))


class TestCrossEntropy(LossContract):
    def build(self) -> nn.Module:
        return CrossEntropy()


class TestCrossEntropyWeighted(LossContract):
    def build(self) -> nn.Module:
        return CrossEntropy(class_weights=[0.25, 1, 2, 4])


class TestCrossEntropySum(LossContract):
    def build(self) -> nn.Module:
        return CrossEntropy(class_weights=[0.25, 1, 2, 4], reduction="sum")


class TestFocal(LossContract):
    def build(self) -> nn.Module:
        return Focal(class_weights=[0.25, 1, 2, 4])


class TestFocalOfInfiniteSlope(LossContract):
    def build(self) -> nn.Module:
        return Focal(gamma=0.5)


class TestDice(LossContract):
    def build(self) -> nn.Module:
        return Dice()


class TestDiceSmooth(LossContract):
    def build(self) -> nn.Module:
        return Dice(smooth=1.0)


class TestLovasz(LossContract):
    def build(self) -> nn.Module:
        return Lovasz()


class TestLovaszAll(LossContract):
    def build(self) -> nn.Module:
        return Lovasz("all")


class TestLovaszPerImage(LossContract):
    def build(self) -> nn.Module:
        return Lovasz(per_image=True)


class TestBorderWeighted(LossContract):
    def build(self) -> nn.Module:
        return BorderWeighted(class_weights=[0.25, 1, 2, 4])

    def needs(self, mask: Tensor) -> dict[str, Tensor]:
        steps = torch.arange(mask.numel(), dtype=torch.float32).view(mask.shape) % 20
        return {"border": steps.where(steps < 18, torch.inf)}


# --- cross-entropy and focal loss -------------------------------------------------------------------------------------


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("weights", [None, [0.2, 1, 3, 0.5]])
def test_cross_entropy_equals_torch(weights: list[float] | None, reduction: Any) -> None:
    logits, mask = batch()
    torch_weights = None if weights is None else torch.tensor(weights)
    expected = F.cross_entropy(logits, mask, torch_weights, ignore_index=255, reduction=reduction)
    torch.testing.assert_close(CrossEntropy(class_weights=weights, reduction=reduction)(logits, mask), expected)


def test_sum_reduction_is_over_batch() -> None:
    (logits, mask), loss = batch(), CrossEntropy(reduction="sum")
    parts = [loss(logits[i : i + 1], mask[i : i + 1]) for i in range(3)]
    torch.testing.assert_close(loss(logits, mask), torch.stack(parts).sum())


@pytest.mark.parametrize("weights", [None, [0.2, 1, 3, 0.5]])
def test_focal_with_gamma_zero_is_cross_entropy(weights: list[float] | None) -> None:
    logits, mask = batch()
    expected = CrossEntropy(class_weights=weights)(logits, mask)
    torch.testing.assert_close(Focal(0, weights)(logits, mask), expected)


def test_focal_matches_known_example() -> None:
    logits = torch.tensor([0.9, 0.1]).log().view(1, 2, 1, 1).expand(1, 2, 1, 2)
    loss = Focal(2.0)(logits, torch.tensor([[[0, 1]]])).item()
    expected = (0.1**2 * -torch.tensor(0.9).log() + 0.9**2 * -torch.tensor(0.1).log()) / 2
    assert loss == pytest.approx(expected.item())


def test_focal_equals_torchvision_for_two_classes() -> None:
    from torchvision.ops import sigmoid_focal_loss

    logits, mask = torch.randn(2, 2, 8, 8), torch.randint(0, 2, (2, 8, 8))
    margin = logits[:, 1] - logits[:, 0]  # a softmax of two is a sigmoid of their difference
    expected = sigmoid_focal_loss(margin, mask.float(), alpha=-1, gamma=2, reduction="mean")
    torch.testing.assert_close(Focal(2.0)(logits, mask), expected)


@pytest.mark.parametrize("loss", [CrossEntropy, Focal, BorderWeighted])
def test_invalid_class_weights_raise(loss: type[nn.Module]) -> None:
    logits, mask = batch()
    extra = [torch.ones(mask.shape)] if loss is BorderWeighted else []
    with pytest.raises(UsageError, match=f"{loss.__name__}.class_weights must be 4 factors.*got 2"):
        loss(class_weights=[1, 2])(logits, mask, *extra)
    for wrong in ([1, -2], []):
        with pytest.raises(UsageError, match="class_weights must be"):
            loss(class_weights=wrong)


# --- U-Net's borders --------------------------------------------------------------------------------------------------


def test_border_weights_match_known_example() -> None:
    logits = torch.zeros(1, 2, 1, 4)  # each pixel's cross-entropy is log 2
    mask = torch.tensor([[[0, 0, 1, 255]]])
    border = torch.tensor([[[0.0, 5.0, 0.0, 0.0]]])
    gap = torch.tensor(-0.5).exp().item()  # exp(-5^2 / (2 * 5^2))
    expected = torch.tensor(2.0).log().item() * ((1 + 10) + (1 + 10 * gap) + 1) / 3
    assert BorderWeighted()(logits, mask, border=border).item() == pytest.approx(expected)
    weighted = BorderWeighted(class_weights=[3, 2])(logits, mask, border=border).item()
    assert weighted == pytest.approx(torch.tensor(2.0).log().item() * ((3 + 10) + (3 + 10 * gap) + 2) / 3)


def test_border_weighted_without_borders_is_cross_entropy() -> None:
    logits, mask = batch()
    far = torch.full(mask.shape, torch.inf)
    torch.testing.assert_close(BorderWeighted()(logits, mask, border=far), CrossEntropy()(logits, mask))


def test_border_of_other_shape_raises() -> None:
    logits, mask = batch()
    with pytest.raises(UsageError, match="the mask's shape, \\(3, 8, 8\\), got \\(3, 1, 8, 8\\)"):
        BorderWeighted()(logits, mask, border=torch.ones(3, 1, 8, 8))


# --- Dice -------------------------------------------------------------------------------------------------------------


def test_dice_matches_known_example() -> None:
    p = torch.tensor([[0.9, 0.6, 0.2, 0.5], [0.1, 0.4, 0.8, 0.5]])
    mask = torch.tensor([[[0, 0, 1, 255]]])
    first = 2 * (0.9 + 0.6) / (0.81 + 0.36 + 0.04 + 2)
    second = 2 * 0.8 / (0.01 + 0.16 + 0.64 + 1)
    assert Dice()(p.log().view(1, 2, 1, 4), mask).item() == pytest.approx(1 - (first + second) / 2)


def test_dice_of_background_prediction_is_at_least_one_half() -> None:
    mask = torch.zeros(1, 32, 32, dtype=torch.long)
    mask[0, 4, 4:8] = 1
    nothing = certain(torch.zeros_like(mask), 2)
    assert Dice()(nothing, mask).item() >= 0.5
    assert Dice(smooth=1.0)(nothing, mask).item() > 0.4  # 1 - 1 / (4 + 1) of the foreground


def test_dice_excludes_absent_classes() -> None:
    mask = torch.zeros(1, 8, 8, dtype=torch.long)
    right = certain(mask, 21)
    assert Dice()(right, mask).item() == pytest.approx(0, abs=1e-6)
    trace = right.clone()
    trace[0, 5, 0, 0] = 200  # one pixel of 64 is predicted as an absent class
    assert 0 < Dice()(trace, mask).item() < 0.02


# --- Lovász -----------------------------------------------------------------------------------------------------------


def jaccard_loss(truth: list[bool], wrong: set[int]) -> float:
    """Return 1 - IoU of a class if exactly the pixels in ``wrong`` are wrong."""
    predicted = [t != (i in wrong) for i, t in enumerate(truth)]
    union = sum(t or q for t, q in zip(truth, predicted, strict=True))
    both = sum(t and q for t, q in zip(truth, predicted, strict=True))
    return 1 - both / union if union else 0.0


def lovasz(logits: Tensor, mask: Tensor, classes: str) -> float:
    """Compute definition 2 of the paper for one set of pixels without the ignored ones."""
    p = logits.softmax(1).movedim(1, -1)[mask != 255]
    labels = mask[mask != 255].tolist()
    losses = []
    for c in range(p.shape[1]):
        truth = [label == c for label in labels]
        if classes == "present" and not any(truth):
            continue
        errors = [1 - q if t else q for t, q in zip(truth, p[:, c].tolist(), strict=True)]
        order = sorted(range(len(errors)), key=lambda i: -errors[i])
        steps = [
            jaccard_loss(truth, set(order[: i + 1])) - jaccard_loss(truth, set(order[:i])) for i in range(len(order))
        ]
        losses.append(sum(errors[i] * step for i, step in zip(order, steps, strict=True)))
    return sum(losses) / len(losses)


@pytest.mark.parametrize("classes", ["present", "all"])
def test_lovasz_matches_definition(classes: Any) -> None:
    logits, mask = batch()
    assert Lovasz(classes)(logits, mask).item() == pytest.approx(lovasz(logits, mask, classes), rel=1e-5)
    images = [lovasz(logits[i : i + 1], mask[i : i + 1], classes) for i in range(3)]
    assert Lovasz(classes, per_image=True)(logits, mask).item() == pytest.approx(sum(images) / 3, rel=1e-5)


def test_lovasz_of_certain_prediction_is_one_minus_iou() -> None:
    _, mask = batch()
    preds, scores = torch.randint(0, 3, mask.shape), SegmentationScores(3)
    scores.update(preds, mask)
    loss = Lovasz()(certain(preds, 3), mask)
    assert loss.item() == pytest.approx(1 - scores.compute()["mIoU"].item(), rel=1e-5)


def test_per_image_lovasz_skips_ignored_images() -> None:
    logits, mask = batch()
    mask[2] = 255
    for classes in ("present", "all"):
        loss = Lovasz(classes, per_image=True)
        torch.testing.assert_close(loss(logits, mask), loss(logits[:2], mask[:2]))


def test_lovasz_of_absent_class_is_largest_error() -> None:
    p = torch.tensor([[0.9, 0.6, 0.7], [0.1, 0.4, 0.3]])
    mask = torch.zeros(1, 1, 3, dtype=torch.long)
    present = Lovasz()(p.log().view(1, 2, 1, 3), mask).item()
    both = Lovasz("all")(p.log().view(1, 2, 1, 3), mask).item()
    assert present == pytest.approx((0.1 + 0.4 + 0.3) / 3)
    assert both == pytest.approx((present + 0.4) / 2)


# --- Dice and Lovász, and sums ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", [CrossEntropy(), Focal(), Dice(), Lovasz()])
def test_label_beyond_classes_raises(loss: nn.Module) -> None:
    logits, mask = batch()
    mask[0, 7, 7] = 4
    with pytest.raises((IndexError, RuntimeError)):
        loss(logits, mask)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Focal(gamma=-1), "Focal.gamma must be .*got -1"),
        (lambda: Dice(smooth=-1), "Dice.smooth must be .*got -1"),
        (lambda: BorderWeighted(w0=-1), "BorderWeighted.w0 must be .*got -1"),
        (lambda: BorderWeighted(sigma=0), "sigma above 0.*and 0"),
        (lambda: Sum([]), "0 losses"),
        (lambda: Sum([Dice(), Focal()], [1.0]), "got 2 losses and 1 weights"),
        (lambda: Sum([Dice(), Dice(ignore_index=0)]), "{'dice_1': 255, 'dice_2': 0}"),
    ],
)
def test_invalid_arguments_raise(build: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        build()


class BCELoss(nn.Module):
    """Custom loss without ignore_index and with its own inputs."""

    needs = ("border", "image")

    def forward(self, logits: Tensor, mask: Tensor, border: Tensor, image: Tensor) -> Tensor:
        return border.sum() + image.sum()


def test_sum_names_and_weights_its_terms() -> None:
    logits, mask = batch()
    terms = Sum([CrossEntropy(), Dice(), Focal(0.0), Focal(2.0)], [1, 0.5, 2, 3])(logits, mask)
    assert list(terms) == ["cross_entropy", "dice", "focal_1", "focal_2"]
    torch.testing.assert_close(terms["dice"], 0.5 * Dice()(logits, mask))
    torch.testing.assert_close(terms["focal_1"], 2 * CrossEntropy()(logits, mask))
    torch.testing.assert_close(terms["focal_2"], 3 * Focal(2.0)(logits, mask))


def test_sum_passes_required_inputs_to_each_loss() -> None:
    logits, mask = batch()
    border, image = torch.rand(mask.shape), torch.ones(3, 3, 8, 8)
    loss = Sum([Dice(), BorderWeighted(), BCELoss()])
    assert loss.needs == ("border", "image")
    assert Sum([Dice()]).needs == ()
    terms = loss(logits, mask, border=border, image=image)
    assert list(terms) == ["dice", "border_weighted", "bce_loss"]
    torch.testing.assert_close(terms["border_weighted"], BorderWeighted()(logits, mask, border=border))


def test_sum_has_ignore_index_of_its_losses() -> None:
    assert Sum([Dice(ignore_index=0), BCELoss(), Focal(ignore_index=0)]).ignore_index == 0
    assert not hasattr(Sum([BCELoss()]), "ignore_index")


def test_class_weights_follow_device_but_are_not_saved() -> None:
    """Check that a method can be tested with another loss than in training."""
    both = Sum([CrossEntropy(class_weights=[1, 2]), Dice()])
    assert [name for name, _ in both.named_buffers()] == ["losses.cross_entropy.class_weights"]
    assert both.to("meta").losses["cross_entropy"].class_weights.device.type == "meta"
    assert not both.state_dict()


def test_sum_is_built_from_config() -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--loss", type=nn.Module | None)
    here = "darkroom.lightning_modules.segmentation.losses"
    losses = [
        {"class_path": f"{here}.CrossEntropy", "init_args": {"class_weights": [1, 2, 2, 2], "reduction": "sum"}},
        {"class_path": f"{here}.Dice"},
        {"class_path": f"{here}.Lovasz", "init_args": {"per_image": True}},
    ]
    config = {"loss": {"class_path": f"{here}.Sum", "init_args": {"losses": losses, "weights": [1, 2, 1]}}}
    loss = parser.instantiate_classes(parser.parse_object(config)).loss
    assert list(loss(*batch())) == ["cross_entropy", "dice", "lovasz"]
    assert loss.weights == (1, 2, 1)
    losses[0]["init_args"]["reduction"] = "none"
    with pytest.raises(Exception, match="none"):
        parser.parse_object(config)
