"""What is fitted is kept, as narrow as it should be, and not learned by heart; and its axes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from imagegram.samplers.kernel import fit as module
from imagegram.samplers.kernel.drawing import Drawing, model_probabilities
from imagegram.samplers.kernel.fit import fit, fit_file, open_kernel
from imagegram.samplers.kernel.model import OWN_TOKENS, MovedVotes, digits_of
from imagegram.samplers.kernel.regression import principal_axes
from tests.support.corpora import index_of, related

CPU = torch.device("cpu")
LEVELS = (8, 8, 8)


@pytest.fixture(autouse=True)
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STEPS", 12)


def test_in_a_large_corpus_the_votes_are_as_narrow_as_predicts_best(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Against the bits of votes a little wider and narrower, of images left out one by one."""
    monkeypatch.setattr(module, "LIBRARY", 64)
    rng = np.random.default_rng(0)
    paths = rng.uniform(0, 7, (1500, 1)) + rng.uniform(-2, 2, (1500, 1)) * np.sin(3 * np.arange(4))
    tokens = paths.clip(0, 7).round().astype(np.uint16) * (1 + 8 + 64)  # three equal digits
    tried: dict[float, float] = {}
    left_out_bits = module.left_out_bits

    def noted(*data: Any, sharper: float = 1.0) -> torch.Tensor:
        bits: torch.Tensor = left_out_bits(*data, sharper=sharper)
        if not torch.is_grad_enabled():  # of the narrowing
            tried[sharper] = tried.get(sharper, 0) + bits.item()
        return bits

    monkeypatch.setattr(module, "left_out_bits", noted)
    model = fit(tokens, LEVELS)
    monkeypatch.setattr(module, "_narrow", lambda *_: None)
    wide = fit(tokens, LEVELS)
    factor = (model.sharpness - wide.sharpness)[1].item()
    assert factor == pytest.approx(np.log(min(tried, key=tried.__getitem__)), abs=1e-4)
    assert factor >= np.log(module.NARROWER) - 1e-4
    digits, images = digits_of(tokens, LEVELS, CPU), torch.arange(1500)
    bits = {}
    for change in (-factor, -0.7, 0.0, 0.7):
        model.sharpness.add_(change)
        bits[change] = 0.0
        for position in range(4):
            residuals = model.residuals(digits, position, images)
            bits[change] += left_out_bits(model, digits, residuals, position, 500).item()
        model.sharpness.sub_(change)
    assert bits[0.0] < bits[-factor]
    assert bits[0.0] < min(bits[-0.7], bits[0.7]) + 0.05  # the batch is small


def test_metrics_start_at_the_principal_components(monkeypatch: pytest.MonkeyPatch) -> None:
    """They hold as much of the contexts' variance as as many singular values."""
    monkeypatch.setattr(module, "PASSES", 0)  # no step
    tokens = related(150, 4)
    model = fit(tokens, LEVELS)
    contexts = model.training_codes(digits_of(tokens, LEVELS, CPU), 3)[:, :-3]
    assert len(model.regression_at(0).landmarks) == 0  # of no context
    start = model.projections[3]
    squares = start @ start.T
    assert start.shape == (4, 9)
    assert torch.allclose(squares, squares[0, 0] * torch.eye(4), atol=1e-4)
    contexts = contexts - contexts.mean(0)
    regression = model.regression_at(3)  # whose landmarks are half of these contexts
    assert regression.nearness(contexts).amax(0).numpy() == pytest.approx(np.ones(75))
    assert regression.spread.item() == pytest.approx(contexts.square().sum(1).mean().item())
    held = torch.linalg.svdvals(contexts)[:4].square().sum()
    assert torch.isclose((contexts @ start.T).square().sum(), squares[0, 0] * held, rtol=1e-4)


def test_the_nearest_images_tell_later_tokens_nearly_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = related(60, 6)
    model = fit(tokens, LEVELS)
    digits = digits_of(tokens, LEVELS, CPU)
    residuals = model.residuals(digits, 5, torch.arange(60))
    bits = {}
    for nearest in (60, 59, 20):
        monkeypatch.setattr(module, "NEAREST", nearest)
        bits[nearest] = module.left_out_bits(model, digits, residuals, 5, 60).item()
    assert bits[59] == pytest.approx(bits[60])  # all but the image itself
    assert bits[60] < bits[20] < bits[60] + 1


def test_a_step_predicts_every_position_or_a_few_for_all_that_share_their_numbers() -> None:
    model = MovedVotes(LEVELS, OWN_TOKENS + 10, 4)
    drawn: set[int] = set()
    for seed in range(20):
        positions, times = zip(*module._tasks(model, np.random.default_rng(seed)), strict=True)
        assert positions[:OWN_TOKENS] == tuple(range(OWN_TOKENS))
        assert len(set(positions)) == OWN_TOKENS + module.LATER_TOKENS
        assert times[:OWN_TOKENS] == (1,) * OWN_TOKENS
        assert sum(times) == pytest.approx(OWN_TOKENS + 10)
        drawn.update(positions)
    assert drawn == set(range(OWN_TOKENS + 10))


def test_few_images_are_not_learned_by_heart(monkeypatch: pytest.MonkeyPatch) -> None:
    """They predict others better than uniform tokens, and as well as after many images' steps."""
    monkeypatch.setattr(module, "STEPS", 100)
    few, others = related(50), related(300, seed=9)
    bits = []
    for passes in (module.PASSES, 1000):
        monkeypatch.setattr(module, "PASSES", passes)
        model = fit(few, LEVELS)
        bits.append(-np.log2(model_probabilities(model, few, others, Drawing())).mean())
    assert bits[0] < min(9, bits[1] + 0.05)  # uniform tokens have 9


def test_a_fit_is_kept_beside_its_index_and_made_anew_for_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = index_of(tmp_path, related(60))
    open_kernel(index)
    before = fit_file(index).read_bytes()
    stamp = fit_file(index).stat().st_mtime_ns
    open_kernel(index)
    assert fit_file(index).stat().st_mtime_ns == stamp
    other = index_of(tmp_path / "other", related(60, seed=5))
    fit_file(other).write_bytes(before)
    open_kernel(other)
    assert fit_file(other).read_bytes() != before
    # Fitted otherwise, it is another one.
    key = module._made_from(index)
    for name in [name for name in vars(module) if name.isupper() and name != "LEAST_IMAGES"]:
        value = getattr(module, name)
        with monkeypatch.context() as patch:
            patch.setattr(module, name, {"another": 1} if name == "RATES" else value + 1)
            assert module._made_from(index) != key, name
    monkeypatch.setattr(module, "VERSION", 99)
    open_kernel(index)
    assert fit_file(index).read_bytes() != before


@pytest.mark.parametrize("images", [3, 21, 400])
def test_principal_axes_hold_what_a_singular_value_decomposition_says(images: int) -> None:
    digits = np.random.default_rng(0).integers(0, 8, (images, 192))
    numbers = torch.from_numpy(digits / 4 - 1).float()
    changing = torch.rand(192, generator=torch.Generator().manual_seed(0)) < 0.1
    numbers[1:] = numbers[:1] + numbers[1:] * changing
    numbers = numbers - numbers.mean(0)
    axes = principal_axes(numbers, 48)
    assert torch.allclose(axes.T @ axes, torch.eye(48), atol=1e-4)
    held = torch.linalg.svdvals(numbers)[:48].square().sum()
    assert torch.isclose((numbers @ axes).square().sum(), held, rtol=1e-3)


def test_axes_that_the_solver_fails_to_give_are_asked_of_a_better_conditioned_matrix(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Some solvers raise, some give nan."""
    numbers = torch.randn(21, 150, generator=torch.Generator().manual_seed(0))
    expected = principal_axes(numbers, 4)
    solve = torch.linalg.eigh

    def bad(matrix: torch.Tensor) -> Any:
        return solve(matrix) if matrix.dtype == torch.float64 else [matrix * torch.nan] * 2

    monkeypatch.setattr(torch.linalg, "eigh", bad)
    found = principal_axes(numbers, 4)
    assert (found * expected).sum(0).abs().numpy() == pytest.approx(1, abs=1e-3)
