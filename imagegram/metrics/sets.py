"""How a set of generated images lies among real ones, in any space of features: copies, likeness,
diversity.

Three sets of n images are compared: the generated ones, and two halves of the held-out real images.
One half is the reference; a perfect generator would have the figures of the other. Copies are
looked for among all training images. What each measure is stands in registry.py (SETS).

Intervals: Wilson's for rates, the bootstrap for what belongs to single images, the delete-a-group
jackknife for whole sets (Efron & Stein, 1981: conservative), whose resamples would hold copies.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imagegram.data.duplicates import across
from imagegram.metrics.intervals import Figure, probability_closer, rate
from imagegram.metrics.nearest import (
    Floats,
    Ints,
    Nearest,
    Vectors,
    authentic,
    data_copying_figure,
    nearest_vectors,
)

K = 5  # neighbours, of precision, recall, density and coverage
AROUND = 50  # nearest training images, of the calibrated distance
HALF = 0.5  # of their mean distance: below, an image is copied (alpha of Carlini et al.)
COMPONENTS = 64  # of FD, at most: a covariance of more needs more images
IMAGES_A_COMPONENT = 4  # at least
FITTED_ON = 2000  # training images, of the components and cells
CELL = 50  # generated images in a cell of C_T, about
GROUPS = 20  # of the jackknife
QUANTILE = 2.093  # 97.5 % of Student's t with GROUPS - 1 degrees of freedom
SHARES = ("precision", "recall", "coverage")


@dataclass(frozen=True)
class Space:
    """Features of one kind, in random order."""

    generated: Vectors  # [n, F]
    held_out: Vectors  # one half of the held-out images [n, F]
    reference: Vectors  # the other half [n, F]
    training: Vectors  # of the distinct training images [N, F]

    @property
    def compared(self) -> dict[str, Vectors]:
        """The three sets of n images."""
        return {"generated": self.generated, "held_out": self.held_out, "reference": self.reference}

    @cached_property
    def components(self) -> Any:
        """The principal components of the training images (fitted), as many as n images allow."""
        from sklearn.decomposition import PCA

        some = self.training[np.random.default_rng(0).permutation(len(self.training))[:FITTED_ON]]
        count = min(COMPONENTS, len(self.generated) // IMAGES_A_COMPONENT, *some.shape)
        return PCA(count, svd_solver="randomized", random_state=0).fit(some)


@dataclass(frozen=True)
class Found:
    """Figures of "generated" and "held_out" images, and where each lies among training images."""

    figures: dict[str, dict[str, Figure]]
    nearest: dict[str, Nearest]


def measure_space(space: Space, rng: np.random.Generator) -> Found:
    """All figures of SETS but the near-duplicates, which need pixels."""
    nearest = {
        who: nearest_vectors(features, space.training, AROUND)
        for who, features in space.compared.items()
    }
    cells = _cells(space)
    figures = {}
    real = nearest["reference"].first
    for who in ("generated", "held_out"):
        found = nearest[who]
        of = {
            "calibrated": rate(calibrated(found) < HALF),
            "f_mem": rate(found.memorized),
            "authentic": rate(authentic(found, space.training)),
        }
        of["closer_than_held_out"] = probability_closer(found.first, real, rng)
        both = cells[who], cells["reference"]
        of |= data_copying_figure((found.first, real), both, rng)
        compared = Compared(space, space.compared[who])
        figures[who] = of | jackknife(compared.measure, len(space.reference))
    return Found(figures, nearest)


def calibrated(nearest: Nearest) -> Floats:
    """The distance to the nearest over the mean of the AROUND nearest: float64 [n]; 0: a copy."""
    return nearest.first / np.maximum(nearest.around, 1e-12)


def _cells(space: Space) -> dict[str, Ints]:
    """The cell of k-means on the training images that each image lies in, [n] each."""
    from sklearn.cluster import KMeans

    pca = space.components
    some = pca.transform(space.training[:FITTED_ON])
    count = max(1, min(len(space.generated) // CELL, len(some)))
    means = KMeans(count, n_init=1, random_state=0).fit(some)
    return {
        who: means.predict(pca.transform(features)).astype(np.int64)
        for who, features in space.compared.items()
    }


class Compared:
    """A set of n images beside the reference [n, F], as sets: all of them, or some rows."""

    def __init__(self, space: Space, features: Vectors):
        a, b = (vectors.astype(np.float64) for vectors in (features, space.reference))
        pairs = (a, a), (b, b), (a, b)
        self.mine, self.real, self.between = (squared_distances(*pair) for pair in pairs)
        self.kernels = [(x @ y.T / a.shape[1] + 1) ** 3 for x, y in pairs]
        self.low = [space.components.transform(vectors) for vectors in (features, space.reference)]
        # Twice the width of a kernel: the median distance of real images.
        self.width = max(1e-12, float(np.median(self.real[np.triu_indices(len(self.real), 1)])))

    def measure(self, rows: Ints) -> dict[str, float]:
        """The figures of `rows` [m] of both sets."""
        here = np.ix_(rows, rows)
        mine, real, between = self.mine[here], self.real[here], self.between[here]
        inside = within(between, real)
        return {
            "precision": float(inside.any(1).mean()),
            "recall": float(within(between.T, mine).any(1).mean()),
            "density": float(inside.sum(1).mean() / K),
            "coverage": float(inside.any(0).mean()),
            "fd": frechet(*(vectors[rows] for vectors in self.low)),
            "kid": mmd(*(kernel[here] for kernel in self.kernels)),
            "rke": renyi_kernel_entropy(mine, self.width),
        }


def within(between: Floats, real: Floats) -> NDArray[np.bool_]:
    """Whether each candidate lies in each reference point's ball, which ends at its K-th neighbour:
    bool [n, m], from the distances, or their squares, of both [n, m] and of reference points from
    each other [m, m]."""
    return between <= np.partition(real, K, axis=1)[:, K]  # itself is the nearest


def squared_distances(a: Floats, b: Floats) -> Floats:
    """[n, m] of vectors [n, F] and [m, F]; what rounding leaves of equal vectors is 0."""
    lengths = np.square(a).sum(1)[:, None] + np.square(b).sum(1)
    squares = lengths - 2 * a @ b.T
    return np.where(squares < 1e-12 * lengths, 0.0, squares)


def frechet(a: Floats, b: Floats) -> float:
    """The squared Fréchet distance of two Gaussians with the means and covariances of `a` [n, F]
    and `b` [m, F]:
    |mean - mean|^2 + tr(A + B - 2 (A B)^(1/2)) (Dowson & Landau, 1982).

    Of R'R = A and S'S = B the trace of the root is the sum of the singular values of R S'.
    """
    spreads = [(x - x.mean(0)) / np.sqrt(len(x) - 1) for x in (a, b)]
    roots = [np.asarray(np.linalg.qr(spread, mode="r")) for spread in spreads]
    trace = sum(float(np.square(root).sum()) for root in roots)
    shared = float(np.linalg.svd(roots[0] @ roots[1].T, compute_uv=False).sum())
    return max(0.0, float(np.square(a.mean(0) - b.mean(0)).sum()) + trace - 2 * shared)


def mmd(mine: Floats, real: Floats, between: Floats) -> float:
    """The squared MMD without bias, from kernels [n, n], [m, m], [n, m] (Gretton et al., 2012)."""
    inner = 0.0
    for kernel in (mine, real):
        n = len(kernel)
        inner += (kernel.sum() - np.trace(kernel)) / (n * (n - 1))
    return float(inner - 2 * between.mean())


def renyi_kernel_entropy(squares: Floats, width: float) -> float:
    """exp of the Rényi kernel entropy of order 2 of n images, from squared distances [n, n]: 1 to
    n. The kernel is exp(-2 d^2 / width), that of half of a distance whose square is `width`."""
    return float(1 / np.square(np.exp(-2 * squares / width)).mean())


def jackknife(measure: Callable[[Ints], dict[str, float]], n: int) -> dict[str, Figure]:
    """Figures of n rows, with intervals from those without one of GROUPS groups (Kott, 2001)."""
    rows = np.arange(n)
    groups = min(GROUPS, n)
    parts = [measure(rows[rows % groups != group]) for group in range(groups)]
    figures = {}
    for key, value in measure(rows).items():
        each = np.array([part[key] for part in parts])
        error = QUANTILE * np.sqrt((groups - 1) / groups * np.square(each - each.mean()).sum())
        least = -np.inf if key == "kid" else 0.0  # the only one that may be negative
        most = 1.0 if key in SHARES else np.inf
        bounds = np.clip([value - error, value + error], least, most)
        figures[key] = Figure(value, *bounds.tolist())
    return figures


def near_duplicates(
    pixels: NDArray[np.uint8],
    hashes: NDArray[np.uint64],
    training: tuple[NDArray[np.uint8], NDArray[np.uint64]],
) -> NDArray[np.bool_]:
    """Whether images uint8 [n, 3, S, S], with hashes [n], nearly are training images: bool [n]."""
    both = np.concatenate([hashes, training[1]])
    mine = np.arange(len(both)) < len(hashes)

    def picture(row: int) -> NDArray[np.uint8]:
        return pixels[row] if row < len(hashes) else training[0][row - len(hashes)]

    found = np.zeros(len(hashes), bool)
    found[[pair.held_out for pair in across(both, mine, picture)]] = True
    return found
