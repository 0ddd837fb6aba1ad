"""Memorization as the literature measures it: from the nearest training images in code space, and from near-copies.

Two images are as far apart as their FSQ codes, by the L2 distance over all tokens. Each measure is taken of generated
and of held-out real images against the same training images: a generator that does not copy has the figures of real
images, whatever these are.

- f_mem: the share of images whose nearest training image is less than a third as far as the second nearest (Yoon et
  al., 2023, "Diffusion probabilistic models generalize when they fail to memorize"; Gu et al., 2023, arXiv:2310.02664).
- AuthPct: the share that is *authentic*, further from its nearest training image than that one is from its own nearest
  training image (Alaa et al., 2022, arXiv:2102.08921).
- C_T: the Mann-Whitney statistic of the distances of generated and held-out images to the training set, as a z-score
  in each cell of the space, averaged (Meehan et al., 2020, arXiv:2004.05675). Far below 0 copies, far above underfits.
  P(closer) of copying.py *is* its U in a single cell: U = pairs x (1 - P(closer)). Cells are classes here: a sampler
  may copy in one and underfit in another, which P(closer) averages away.
- near-copies: runs of tokens that match one training image in place within one level of every digit of a code, for a
  copy that differs by a hair is one (Ippolito et al., 2023, arXiv:2210.17546).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata
from tqdm import tqdm

from imagegram.codec.fsq import fsq_codes, fsq_digits
from imagegram.index.folder import Index
from imagegram.metrics.intervals import Figure, bootstrap, wilson

GAP = 1 / 3  # of the distances to the nearest and the second nearest training image
PAIRS = 1 << 27  # of a sequence and a training image whose runs are counted at a time, 256 MB
FEW_RESAMPLES = 200  # of C_T, each of which takes milliseconds
ROUNDING = 1e-6  # squared distances that differ by less are equal: those of codes differ by 1/16 and more
LEAST_IN_CELL = 5  # of each kind: the statistic of fewer is not normal
Tokens = NDArray[np.uint16]
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Nearest:
    """The nearest training images of n sequences: rows int64 [n], and the L2 distances of the first and the second
    nearest in code space, float64 [n] each; the second is infinite where there is only one."""

    rows: Ints
    first: Floats
    second: Floats

    @property
    def memorized(self) -> NDArray[np.bool_]:
        """Whether the nearest is less than a third as far as the second nearest: bool [n]; its mean is f_mem."""
        return self.first < GAP * self.second


def two_nearest(sequences: Tokens, training: Tokens, levels: tuple[int, ...]) -> Nearest:
    """The two nearest of the `training` images [N, L >= k], which are distinct, for each of `sequences` [n, k].

    Of images that are equally far the first one counts: which one rounding favours depends on the number of threads.
    """
    n, k = sequences.shape
    images = fsq_codes(training[:, :k], levels).reshape(len(training), -1).astype(np.float64)
    asked = fsq_codes(sequences, levels).reshape(n, sequences.shape[1] * len(levels)).astype(np.float64)
    lengths = (images**2).sum(1)
    rows = np.zeros((2, n), np.int64)
    distances = np.full((2, n), np.inf)
    step = max(1, PAIRS // 8 // len(training))
    for start in tqdm(range(0, n, step), desc="nearest in codes", unit="batch", delay=3):
        part = asked[start : start + step]
        squares = lengths - 2 * part @ images.T + (part**2).sum(1)[:, None]
        for which in range(min(2, len(training))):
            tied = squares <= squares.min(1, keepdims=True) + ROUNDING
            found = tied.argmax(1)
            rows[which, start : start + step] = found
            distances[which, start : start + step] = np.sqrt(((part - images[found]) ** 2).sum(1))
            squares[np.arange(len(part)), found] = np.inf
    return Nearest(rows[0], distances[0], distances[1])


def authentic(nearest: Nearest, training: Tokens, levels: tuple[int, ...]) -> NDArray[np.bool_]:
    """Whether each sequence is further from its nearest training image than that is from its own: bool [n].

    `nearest` of the sequences among the distinct images `training` [N, k].
    """
    asked, which = np.unique(nearest.rows, return_inverse=True)
    own = two_nearest(training[asked], training, levels).second  # the first is the image itself
    return nearest.first > own[which]


def mann_whitney_z(a: Floats, b: Floats) -> float:
    """The z-score of Mann & Whitney's U (1947), the pairs in which `a` [n] is above `b` [m], corrected for ties.

    Below 0 where `a` tends to be smaller; 0 where all are equal.
    """
    n = len(a)
    m = len(b)
    total = n + m
    ranks = rankdata(np.concatenate([a, b]))
    above = ranks[:n].sum() - n * (n + 1) / 2
    ties = np.unique(ranks, return_counts=True)[1].astype(np.float64)
    variance = n * m / 12 * (total + 1 - (ties**3 - ties).sum() / (total * (total - 1)))
    return float((above - n * m / 2) / np.sqrt(variance)) if variance > 0 else 0.0


def cell_scores(generated: Floats, held_out: Floats, cells: tuple[Ints, Ints]) -> dict[int, float]:
    """The z-score of the distances in each cell with LEAST_IN_CELL images of both kinds. `cells` of the generated and
    of the held-out images [n], [m]."""
    scores = {}
    for cell in np.intersect1d(*cells).tolist():
        mine = generated[cells[0] == cell]
        real = held_out[cells[1] == cell]
        if min(len(mine), len(real)) >= LEAST_IN_CELL:
            scores[cell] = mann_whitney_z(mine, real)
    return scores


def data_copying(generated: Floats, held_out: Floats, cells: tuple[Ints, Ints]) -> float:
    """C_T: the mean of `cell_scores`, each weighted by the held-out images in its cell. NaN where no cell has enough.

    Arguments as there.
    """
    scores = cell_scores(generated, held_out, cells)
    weights = [np.count_nonzero(cells[1] == cell) for cell in scores]
    return float(np.average(list(scores.values()), weights=weights)) if scores else float("nan")


def near_runs(sequences: Tokens, training: Tokens, levels: tuple[int, ...]) -> Ints:
    """From every token of `sequences` [n, k] on, how many in a row match one row of `training` [N, L >= k] nearly.

    int64 [n, k]. Two tokens at the same position match nearly where every digit differs by one level at most.
    """
    n, k = sequences.shape
    lengths = np.zeros((n, k), np.int64)
    step = max(1, PAIRS // len(training))
    starts = range(0, n, step)
    for start in tqdm(starts, desc="near-copies", unit="batch", delay=3):
        part = fsq_digits(sequences[start : start + step], levels)
        running = np.zeros((len(part), len(training)), np.uint16)  # length of the run from here on
        for position in reversed(range(k)):
            near = _near_digits(training[:, position], levels)
            for row, digits in enumerate(part[:, position]):
                matches = near[0][digits[0]]
                for of_digit, digit in zip(near[1:], digits[1:], strict=True):
                    matches = matches & of_digit[digit]
                running[row] += 1
                running[row] *= matches
                lengths[start + row, position] = running[row].max()
    return lengths


def _near_digits(column: Tokens, levels: tuple[int, ...]) -> list[NDArray[np.bool_]]:
    """For every digit and each of its values v, which tokens of `column` [N] have v or a neighbour of v: [level, N]."""
    digits = fsq_digits(column, levels)
    return [np.abs(digits[:, d] - np.arange(level)[:, None]) <= 1 for d, level in enumerate(levels)]


def memorization_figures(
    generated: Tokens, index: Index, held_out: Tokens, rng: np.random.Generator
) -> dict[str, dict[str, Figure]]:
    """AuthPct, near-copies and C_T of `generated` [n, k] and of the first k tokens of `held_out` [M, L].

    C_T is in cells of the classes of the nearest training images; that of the held-out images compares one half of them
    with the other. Left out where no cell has enough of both. For codecs with codes.
    """
    training, first = np.unique(index.tokens[:, : generated.shape[1]], axis=0, return_index=True)
    result: dict[str, dict[str, Figure]] = {}
    places = {}
    for who, sequences in (("generated", generated), ("held_out", held_out[:, : generated.shape[1]])):
        n, k = sequences.shape
        codes = two_nearest(sequences, training, index.levels)
        near = near_runs(sequences, training, index.levels)[:, 0] == k
        result[who] = {
            "authentic": wilson(int(authentic(codes, training, index.levels).sum()), n),
            "near_copies": wilson(int(near.sum()), n),
        }
        places[who] = (codes.first, index.classes[first[codes.rows]])
    half = rng.permutation(len(held_out)) % 2 == 0
    distances, cells = places["held_out"]
    one, other = ((distances[part], cells[part]) for part in (half, ~half))
    compared = {"generated": (places["generated"], places["held_out"]), "held_out": (one, other)}
    for who, (mine, real) in compared.items():
        if figure := c_t(mine, real, rng):
            result[who]["c_t"] = figure
    return result


def c_t(mine: tuple[Floats, Ints], real: tuple[Floats, Ints], rng: np.random.Generator) -> Figure | None:
    """C_T of two sets of images, each given by its distances and cells [n]; bootstrap over both. None where no cell
    has enough of both."""

    def statistic(a: Ints, b: Ints) -> float:
        return data_copying(mine[0][a], real[0][b], (mine[1][a], real[1][b]))

    rows = (np.arange(len(mine[0])), np.arange(len(real[0])))
    if np.isnan(statistic(*rows)):
        return None
    return bootstrap(statistic, rows, rng, FEW_RESAMPLES)
