"""Measures of sets agree with other libraries, brute force and closed forms."""

import importlib
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.linalg import sqrtm
from scipy.spatial.distance import cdist

from imagegram.data.duplicates import perceptual_hashes
from imagegram.data.scenes import scene
from imagegram.metrics import sets as m
from imagegram.metrics.nearest import nearest_vectors
from imagegram.metrics.registry import SETS

N = 60


def other(name: str) -> Any:
    """A library that is no requirement; the test is skipped where it is missing."""
    return pytest.importorskip(name, reason=f"{name} is not installed (requirements-features.txt)")


@pytest.fixture(scope="module")
def space() -> m.Space:
    """Gaussian features in 12 dimensions; a third of the generated ones are training images."""
    rng = np.random.default_rng(0)
    real = rng.standard_normal((400 + 2 * N, 12)).astype(np.float32)
    training, held_out, reference = np.split(real, [400, 400 + N])
    narrower = (0.7 * rng.standard_normal((N - N // 3, 12))).astype(np.float32)
    generated = np.concatenate([training[: N // 3], narrower])
    return m.Space(generated, held_out, reference, training)


@pytest.fixture(scope="module")
def compared(space: m.Space) -> m.Compared:
    return m.Compared(space, space.generated)


def doubles(space: m.Space) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    return space.generated.astype(np.float64), space.reference.astype(np.float64)


def test_prdc_gives_the_same_figures(space: m.Space, compared: m.Compared) -> None:
    prdc = other("prdc")
    generated, reference = doubles(space)
    wanted = prdc.compute_prdc(reference, generated, nearest_k=m.K)
    found = compared.measure(np.arange(N))
    assert {key: found[key] for key in wanted} == pytest.approx(wanted)


@pytest.mark.parametrize("far", [1, 3])
def test_precision_recall_density_and_coverage_agree_with_brute_force(
    space: m.Space, far: int
) -> None:
    """As they are, and with two thirds of the images far from all real ones."""
    generated, reference = doubles(space)
    generated[N // 3 :] *= far

    def balls(centres: NDArray[np.float64], points: NDArray[np.float64]) -> NDArray[np.bool_]:
        radii = [sorted(np.linalg.norm(centres - centre, axis=1))[m.K] for centre in centres]
        return np.array([np.linalg.norm(centres - point, axis=1) < radii for point in points])

    inside = balls(reference, generated)
    found = m.Compared(space, generated).measure(np.arange(N))
    assert found["precision"] == pytest.approx(inside.any(1).mean())
    assert found["coverage"] == pytest.approx(inside.any(0).mean())
    assert found["density"] == pytest.approx(inside.sum() / (N * m.K))
    assert found["recall"] == pytest.approx(balls(generated, reference).any(1).mean())
    assert (found["precision"] < found["coverage"] < 1) == (far == 3)


def test_the_frechet_distance_is_that_of_the_square_root_of_the_product(space: m.Space) -> None:
    a, b = doubles(space)
    b = b @ np.diag(np.arange(1, 13)) + 1
    first, second = np.cov(a.T), np.cov(b.T)
    root = np.trace(np.real(sqrtm(first @ second)))
    wanted = np.square(a.mean(0) - b.mean(0)).sum() + np.trace(first) + np.trace(second) - 2 * root
    assert m.frechet(a, b) == pytest.approx(wanted)
    assert m.frechet(a, a + 2) == pytest.approx(12 * 4)
    assert m.frechet(a[:5], a[:5]) == pytest.approx(0, abs=1e-9)  # fewer images than dimensions


def test_fd_and_kid_are_those_of_torch_fidelity(space: m.Space, compared: m.Compared) -> None:
    other("torch_fidelity")
    import torch

    fid = importlib.import_module("torch_fidelity.metric_fid")
    kid = importlib.import_module("torch_fidelity.metric_kid")
    both = [torch.from_numpy(vectors) for vectors in doubles(space)]
    statistics = [fid.fid_features_to_statistics(vectors) for vectors in both]
    wanted = fid.fid_statistics_to_metric(*statistics, verbose=False)["frechet_inception_distance"]
    assert m.frechet(*doubles(space)) == pytest.approx(wanted, rel=1e-6)
    settings = {"kid_subsets": 1, "kid_subset_size": N, "kid_kernel": "poly", "verbose": False}
    wanted = kid.kid_features_to_metric(*both, **settings)["kernel_inception_distance_mean"]
    assert compared.measure(np.arange(N))["kid"] == pytest.approx(wanted, rel=1e-6)


def test_kid_and_rke_agree_with_sums_over_pairs(space: m.Space, compared: m.Compared) -> None:
    rows = np.arange(25)
    a, b = (vectors[rows] for vectors in doubles(space))

    def kernel(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
        return float((x @ y / 12 + 1) ** 3)

    pairs = [(i, j) for i in rows for j in rows if i != j]
    inner = sum(kernel(a[i], a[j]) + kernel(b[i], b[j]) for i, j in pairs) / len(pairs)
    wanted = inner - 2 * np.mean([[kernel(x, y) for y in b] for x in a])
    found = compared.measure(rows)
    assert found["kid"] == pytest.approx(wanted)

    # RKE: the eigenvalues of the kernel matrix over n sum to 1, and the entropy of order 2 is -ln
    # of their squares.
    real = doubles(space)[1]
    squares = [np.square(real[i] - real[j]).sum() for i in range(N) for j in range(i)]
    width = np.sqrt(np.median(squares))
    eigenvalues = np.linalg.eigvalsh(np.exp(-np.square(cdist(a, a) / (width / 2)) / 2) / len(a))
    assert found["rke"] == pytest.approx(1 / np.square(eigenvalues).sum())


def test_the_jackknife_of_a_mean_is_its_standard_error() -> None:
    values = np.random.default_rng(1).standard_normal(m.GROUPS)
    figure = m.jackknife(lambda rows: {"x": float(values[rows].mean() + 10)}, m.GROUPS)["x"]
    error = values.std(ddof=1) / np.sqrt(m.GROUPS)
    assert figure.value == pytest.approx(values.mean() + 10)
    assert (figure.high - figure.low) / 2 == pytest.approx(2.093 * error)
    # Shares end at 1, and only KID may be negative.
    middles = {"precision": 0.95, "fd": 0.05, "kid": 0.05}
    near = {key: middle + (values - values.mean()) / 3 for key, middle in middles.items()}

    def means(rows: NDArray[np.int64]) -> dict[str, float]:
        return {key: float(each[rows].mean()) for key, each in near.items()}

    bounds = {key: (one.low, one.high) for key, one in m.jackknife(means, m.GROUPS).items()}
    half = 2.093 * error / 3
    assert bounds["precision"] == (pytest.approx(0.95 - half), 1)
    assert bounds["fd"] == (0, pytest.approx(0.05 + half))
    assert bounds["kid"] == pytest.approx((0.05 - half, 0.05 + half))


def test_distances_to_training_images_agree_with_brute_force(space: m.Space) -> None:
    found = nearest_vectors(space.generated, space.training, m.AROUND)
    between = np.sort(cdist(space.generated.astype(float), space.training.astype(float)), 1)
    assert found.first == pytest.approx(between[:, 0], abs=1e-6)
    assert found.second == pytest.approx(between[:, 1], rel=1e-5)
    assert found.around == pytest.approx(between[:, : m.AROUND].mean(1), rel=1e-3)
    assert (found.first[: N // 3] == 0).all()  # copies, to the last digit
    assert m.calibrated(found) == pytest.approx(found.first / found.around)


def test_a_third_of_copies_is_seen_and_held_out_images_are_not_accused(space: m.Space) -> None:
    figures = m.measure_space(space, np.random.default_rng(0)).figures
    mine, real = figures["generated"], figures["held_out"]
    assert set(mine) == set(real) == {metric.key for metric in SETS} - {"near_duplicates"}
    for key in ("f_mem", "calibrated"):
        assert mine[key].value == pytest.approx(1 / 3, abs=0.05)
        assert mine[key].low > real[key].high
        assert real[key].value < 0.1
    assert real["closer_than_held_out"].includes(0.5)
    assert real["c_t"].includes(0)
    assert real["kid"].includes(0)
    assert mine["rke"].high < real["rke"].low  # they are narrower as well


def test_near_duplicates_are_found_by_their_pixels() -> None:
    known = np.stack([scene(1, i)[0] for i in range(30)]).transpose(0, 3, 1, 2) // 2
    # the first three in other levels
    mine = np.concatenate([known[:3] + 60, known[3:6], known[6:9] + 5])
    hashes = [perceptual_hashes(pixels) for pixels in (mine, known)]
    found = m.near_duplicates(mine, hashes[0], (known, hashes[1]))
    assert found.tolist() == [False] * 3 + [True] * 6
