"""Linear SVMs and ridge regression against general solvers on small problems."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor

from darkroom.lightning_modules.detection.rcnn.svm import linear_svm, ridge

COST, WEIGHT, BIAS = 1e-3, 2.0, 10.0  # the paper's problem


def problem(n: int = 120, d: int = 12, k: int = 3, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return non-negative features of mean norm 20 and targets of overlapping classes, a tenth of them 0."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 2 * k, (n,), generator=generator)
    centres = torch.cat([torch.randn(k, d, generator=generator), torch.zeros(k, d)])
    features = (torch.randn(n, d, generator=generator) + centres[labels] + 1).relu().double()
    targets = torch.where(labels[:, None] == torch.arange(k), 1, -1)
    targets[torch.rand(n, k, generator=generator) < 0.1] = 0
    return features * (20 / features.norm(dim=1).mean()), targets


def objective(weights: Tensor, features: Tensor, targets: Tensor, cost: float = COST) -> Tensor:
    """Compute the objective (K,) directly, by class and sample."""
    sums = []
    for w, y in zip(weights, targets.T, strict=True):
        total = (w[:-1].square().sum() + (w[-1] / BIAS) ** 2) / 2
        for x, sign in zip(features, y, strict=True):
            if sign:
                total += cost * (WEIGHT if sign > 0 else 1) * max(0, 1 - sign * (x @ w[:-1] + w[-1]))
        sums.append(total)
    return torch.stack(sums)


def solve_with_scipy(features: Tensor, target: Tensor, cost: float) -> np.ndarray:
    """Solve the dual, a bounded quadratic program; return weights (D + 1,)."""
    y = target.numpy().astype(float)
    rows = np.concatenate([features.numpy(), np.full((len(y), 1), BIAS)], 1) * y[:, None]
    most = cost * np.where(y > 0, WEIGHT, np.abs(y))

    def dual(a: np.ndarray) -> tuple[float, np.ndarray]:
        w = a @ rows
        return w @ w / 2 - a.sum(), rows @ w - 1

    bounds = list(zip(np.zeros_like(most), most, strict=True))
    tight = {"maxiter": 10**5, "maxfun": 10**6, "ftol": 1e-16, "gtol": 1e-10}
    w = minimize(dual, np.zeros_like(most), jac=True, bounds=bounds, method="L-BFGS-B", options=tight).x @ rows
    return np.append(w[:-1], w[-1] * BIAS)


@pytest.mark.parametrize(("shape", "cost"), [((120, 12, 3), COST), ((30, 80, 2), 0.1)])
def test_svm_matches_general_solver(cost: float, shape: tuple[int, int, int]) -> None:
    """Compare the objective to a relative error of 1e-3 by default, and the weights at lower tolerance."""
    features, targets = problem(*shape)
    expected = torch.tensor(np.array([solve_with_scipy(features, target, cost) for target in targets.T]))
    least = objective(expected, features, targets, cost)
    found = objective(linear_svm(features, targets, cost), features, targets, cost)
    assert (found <= least * 1.001).all()
    exact = linear_svm(features, targets, cost, tolerance=1e-7)
    assert ((exact - expected).norm(dim=1) < 1e-3 * expected.norm(dim=1)).all()


def test_svm_matches_liblinear() -> None:
    svm = pytest.importorskip("sklearn.svm")
    features, targets = problem()
    ours = linear_svm(features, targets, tolerance=1e-7)
    for k in range(3):
        some = targets[:, k] != 0
        theirs = svm.LinearSVC(
            loss="hinge", C=COST, intercept_scaling=BIAS, class_weight={1: WEIGHT}, tol=1e-8, max_iter=10**6
        )
        theirs.fit(features[some].numpy(), targets[some, k].numpy())
        weights = torch.tensor(np.append(theirs.coef_[0], theirs.intercept_))
        torch.testing.assert_close(ours[k], weights, rtol=1e-2, atol=1e-4)


def test_warm_start_does_not_change_solution() -> None:
    features, targets = problem()
    cold = linear_svm(features, targets, tolerance=1e-6)
    old = linear_svm(features[:90], targets[:90])
    for start in (old, torch.randn_like(old)):
        warm = linear_svm(features, targets, start=start, tolerance=1e-6)
        torch.testing.assert_close(warm, cold, rtol=0.02, atol=1e-4)


def test_classes_are_solved_independently() -> None:
    features, targets = problem()
    together = linear_svm(features, targets)
    alone = torch.cat([linear_svm(features, targets[:, k : k + 1]) for k in range(3)])
    assert torch.equal(together, alone)


def test_targets_of_zero_are_ignored() -> None:
    features, targets = problem()
    some = targets[:, 0] != 0
    assert torch.equal(linear_svm(features, targets)[:1], linear_svm(features[some], targets[some, :1]))


def test_classes_without_positives_or_examples_are_finite() -> None:
    features, targets = problem()
    targets[:, 0] = 0
    targets[:, 1] = -1
    weights = linear_svm(features, targets, start=torch.randn(3, 13).double())
    assert weights[0].norm() < 1e-4
    assert (features @ weights[1, :-1] + weights[1, -1]).max() < 0
    assert linear_svm(features[:0], targets[:0]).abs().max() == 0


def test_svm_keeps_dtype_and_is_deterministic() -> None:
    features, targets = problem()
    first = linear_svm(features.float(), targets)
    assert first.dtype == torch.float32
    assert torch.equal(first, linear_svm(features.float(), targets))


@pytest.mark.parametrize(("n", "d"), [(50, 8), (8, 50), (20, 20)])
def test_ridge_matches_augmented_least_squares(n: int, d: int) -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(n, m, generator=generator, dtype=torch.double) for m in (d, 4))
    for penalty in (0.1, 1000.0):
        rows = np.concatenate([x.numpy(), np.sqrt(penalty) * np.eye(d)])
        expected = np.linalg.lstsq(rows, np.concatenate([y.numpy(), np.zeros((d, 4))]), rcond=None)[0]
        torch.testing.assert_close(ridge(x, y, penalty), torch.tensor(expected), rtol=1e-8, atol=1e-12)


def test_ridge_primal_and_dual_agree() -> None:
    """Compare both solvers by padding with rows of zeros, which do not change the solution."""
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(20, 21, generator=generator).double(), torch.randn(20, 4, generator=generator).double()
    padded = [torch.cat([part, torch.zeros(5, part.shape[1])]) for part in (x, y)]
    torch.testing.assert_close(ridge(x, y, 3.0), ridge(*padded, 3.0), rtol=1e-9, atol=1e-12)
