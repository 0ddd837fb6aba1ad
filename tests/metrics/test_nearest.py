"""Measures of memorization agree with brute force and SciPy, and find what was planted."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from imagegram.codec.fsq import fsq_codes, fsq_digits
from imagegram.metrics import copying
from imagegram.metrics import nearest as m
from tests.support.corpora import index_of

Tokens = NDArray[np.uint16]
LEVELS = (8, 8, 8)


@pytest.fixture(scope="module")
def training() -> Tokens:
    return np.unique(np.random.default_rng(0).integers(0, 512, (60, 7)).astype(np.uint16), axis=0)


@pytest.fixture(scope="module")
def sequences(training: Tokens) -> Tokens:
    """Noise, copies, copies with a few tokens changed, and prefixes of two images joined."""
    rng = np.random.default_rng(1)
    touched = training[:20].copy()
    touched[np.arange(20), rng.integers(0, 7, 20)] = rng.integers(0, 512, 20)
    joined = np.concatenate([training[:10, :4], training[10:20, 4:]], 1)
    noise = rng.integers(0, 512, (20, 7))
    return np.concatenate([noise, training[:5], touched, joined]).astype(np.uint16)


def distances(a: Tokens, b: Tokens) -> NDArray[np.float64]:
    """L2 distances [n, m] in code space."""
    mine, known = (fsq_codes(tokens, LEVELS).astype(np.float64) for tokens in (a, b))
    return np.sqrt(np.square(mine[:, None] - known).sum((2, 3)))


def test_f_mem_and_authenticity_agree_with_brute_force(sequences: Tokens, training: Tokens) -> None:
    nearest = m.two_nearest(sequences, training, LEVELS)
    between = distances(sequences, training)
    ordered = np.sort(between, 1)
    assert nearest.first == pytest.approx(ordered[:, 0], abs=1e-6)
    assert nearest.second == pytest.approx(ordered[:, 1])
    assert nearest.memorized.tolist() == (ordered[:, 0] < ordered[:, 1] / 3).tolist()
    assert nearest.memorized[20:25].all()  # the copies
    assert not nearest.memorized[:20].any()  # the noise

    within = distances(training, training)
    np.fill_diagonal(within, np.inf)
    wanted = within.min(1)[between.argmin(1)] < between.min(1)
    assert m.authentic(nearest, m.code_vectors(training, LEVELS)).tolist() == wanted.tolist()
    assert 0 < wanted.mean() < 1


@pytest.mark.parametrize("threads", [1, 4])
def test_of_images_that_are_equally_near_the_first_counts(threads: int) -> None:
    """Codes of 7 levels are thirds, whose sums round: the summing decides who is nearer."""
    rng = np.random.default_rng(2)
    digits = rng.integers(0, 6, (20, 16, 3))
    radix = np.array([1, 7, 49])
    # each one level away, in another digit
    near = digits[:, None] + np.eye(48, dtype=int).reshape(48, 16, 3)
    order = rng.permutation(20 * 48)
    asked = (digits @ radix).astype(np.uint16)
    known = (near @ radix).reshape(-1, 16)[order].astype(np.uint16)
    with threadpool_limits(threads):
        found = m.two_nearest(asked, known, (7, 7, 7))
    assert found.rows.tolist() == [np.flatnonzero(order // 48 == i)[0] for i in range(20)]
    assert found.second == pytest.approx(found.first)


def test_one_training_image_has_no_second(training: Tokens) -> None:
    nearest = m.two_nearest(training[:3], training[:1], LEVELS)
    assert np.isinf(nearest.second).all()
    assert nearest.memorized.all()


def test_c_t_is_the_mean_over_cells_weighted_by_the_real_images() -> None:
    """Without ties the z-score of a cell is (U - nm / 2) / sqrt(nm (n + m + 1) / 12)."""
    rng = np.random.default_rng(4)
    a = rng.random(90)
    b = rng.random(120) + 0.1
    # nothing was generated in the last cell
    cells = rng.integers(0, 3, 90), rng.integers(0, 4, 120)
    total = 0.0
    for cell in range(3):
        mine, real = a[cells[0] == cell], b[cells[1] == cell]
        n, k = len(mine), len(real)
        u = (mine[:, None] > real[None]).sum()
        total += k * (u - n * k / 2) / np.sqrt(n * k * (n + k + 1) / 12)
    assert m.data_copying(a, b, cells) == pytest.approx(total / np.count_nonzero(cells[1] < 3))
    assert np.isnan(m.data_copying(a, b, (cells[0], cells[1] + 10)))
    for n, k in ((5, 5), (5, 4), (4, 5)):  # fewer than five are too few for a normal statistic
        one_cell = np.zeros(n, int), np.zeros(k, int)
        assert np.isnan(m.data_copying(a[:n], b[:k], one_cell)) == (min(n, k) < 5)


@pytest.mark.parametrize("levels", [(8, 8, 8), (5, 4, 3)])
def test_near_copies_agree_with_brute_force(
    levels: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(m, "PAIRS", 200)  # seven sequences at a time
    rng = np.random.default_rng(5)
    radix = np.cumprod([1, *levels[:-1]])
    training = rng.integers(0, np.prod(levels), (30, 6)).astype(np.uint16)
    sequences = training[rng.integers(0, 30, 25)]
    digits = fsq_digits(sequences, levels) + rng.integers(-1, 2, (25, 6, 3))
    digits[::3, 2, 1] += 1  # two levels, here and there
    sequences = (digits.clip(0, np.array(levels) - 1) @ radix).astype(np.uint16)
    mine, known = (fsq_digits(tokens, levels).astype(int) for tokens in (sequences, training))
    wanted = (np.abs(mine[:, None] - known).max((2, 3)) <= 1).any(1)
    assert 0 < wanted.mean() < 1
    assert m.near_copies(sequences, training, levels).tolist() == wanted.tolist()


def test_a_copy_moved_by_one_level_is_near_and_not_exact(tmp_path: Path) -> None:
    rng = np.random.default_rng(6)
    digits = rng.integers(1, 7, (40, 8, 3))
    radix = np.array([1, 8, 64])
    tokens = digits @ radix
    moved = (digits + rng.choice([-1, 1], digits.shape)) @ radix
    index = index_of(tmp_path, tokens)
    drawn, real = moved.astype(np.uint16), rng.integers(0, 512, (50, 8)).astype(np.uint16)
    assert copying.measure(drawn, index, real, rng)["generated"]["exact_copies"].value == 0
    generated, held_out = m.memorization_figures(drawn, index, real, rng).values()
    assert generated["near_copies"].value == 1
    assert held_out["near_copies"].value == 0
    assert generated["c_t"].high < -2
    assert held_out["c_t"].low < 0 < held_out["c_t"].high
    assert generated["authentic"].value < 0.1
