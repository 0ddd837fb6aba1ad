"""Memorization as the literature measures it, by the nearest training images in code space.

Two images are as far apart as their FSQ codes, by the L2 distance over all tokens; sets.py asks the
same of features of pictures. A generator that does not copy has the figures of held-out images.
What each measure is stands in registry.py. f_mem: Yoon et al. (2023, "Diffusion probabilistic
models generalize when they fail to memorize"), Gu et al. (2023, arXiv:2310.02664). AuthPct: Alaa et
al. (2022, arXiv:2102.08921). C_T: Meehan et al. (2020, arXiv:2004.05675), in cells that are classes
here: a sampler may copy in one and underfit in another, which P(closer) averages away. Near-copies:
Ippolito et al. (2023, arXiv:2210.17546).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist
from scipy.stats import ranksums
from tqdm import tqdm

from imagegram.codec.fsq import fsq_codes, fsq_digits
from imagegram.index.folder import Index
from imagegram.metrics.intervals import Figure, bootstrap, rate

GAP = 1 / 3  # of the distances to the nearest and the second nearest training image
PAIRS = 1 << 24  # of a sequence and a training image compared at a time, 128 MB
FEW_RESAMPLES = 200  # of C_T, each of which takes milliseconds
# squared distances that differ by less are equal: those of codes differ by 1/16 and more
ROUNDING = 1e-6
LEAST_IN_CELL = 5  # of each kind: the statistic of fewer is not normal
Tokens = NDArray[np.uint16]
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Vectors = NDArray[np.floating]


@dataclass(frozen=True)
class Nearest:
    """The nearest training images of n sequences, and L2 distances, float64 [n] each."""

    rows: Ints  # of the first, int64 [n]
    first: Floats
    second: Floats  # infinite where there is only one
    around: Floats  # the mean of the `many` nearest ones that were asked for

    @property
    def memorized(self) -> NDArray[np.bool_]:
        """Whether the first is less than a third of the second: bool [n]; its mean is f_mem."""
        return self.first < GAP * self.second


def two_nearest(sequences: Tokens, training: Tokens, levels: tuple[int, ...]) -> Nearest:
    """The nearest in codes of distinct `training` images [N, L >= k] to `sequences` [n, k]."""
    known = code_vectors(training[:, : sequences.shape[1]], levels)
    return nearest_vectors(code_vectors(sequences, levels), known)


def code_vectors(tokens: Tokens, levels: tuple[int, ...]) -> Floats:
    """The FSQ codes of tokens [n, k], float64 [n, k * digits]."""
    digits = tokens.shape[1] * len(levels)
    return fsq_codes(tokens, levels).reshape(len(tokens), digits).astype(np.float64)


def nearest_vectors(asked: Vectors, known: Vectors, many: int = 1) -> Nearest:
    """The two nearest of the distinct `known` [N, F] to each of `asked` [n, F], and the mean of the
    `many` nearest.

    Of those that are equally far the first one counts: which one rounding favours depends on the
    number of threads. The two distances are computed anew from the vectors: that of a copy is 0.
    """
    n = len(asked)
    lengths = np.square(known).sum(1)
    rows = np.zeros((2, n), np.int64)
    distances = np.full((2, n), np.inf)
    around = np.zeros(n)
    many = min(many, len(known))
    step = max(1, PAIRS // len(known))
    for start in tqdm(range(0, n, step), desc="nearest training images", unit="batch", delay=3):
        here = slice(start, start + step)
        part = asked[here]
        squares = lengths - 2 * part @ known.T + np.square(part).sum(1)[:, None]
        if many > 1:
            closest = np.partition(squares, many - 1, axis=1)[:, :many]
            around[here] = np.sqrt(closest.clip(min=0), dtype=np.float64).mean(1)
        for which in range(min(2, len(known))):
            tied = squares <= squares.min(1, keepdims=True) + ROUNDING
            found = tied.argmax(1)
            rows[which, here] = found
            apart = part.astype(np.float64) - known[found]
            distances[which, here] = np.sqrt(np.square(apart).sum(1))
            squares[np.arange(len(part)), found] = np.inf
    return Nearest(rows[0], distances[0], distances[1], around)


def authentic(nearest: Nearest, known: Vectors) -> NDArray[np.bool_]:
    """Whether each is further from its nearest one, of the distinct vectors `known` [N, F], than
    that is from its own: bool [n]."""
    asked, which = np.unique(nearest.rows, return_inverse=True)
    own = nearest_vectors(known[asked], known).second  # the first is the image itself
    return nearest.first > own[which]


def data_copying(generated: Floats, held_out: Floats, cells: tuple[Ints, Ints]) -> float:
    """C_T of distances to the nearest training image [n] and [m], in `cells` of generated and
    held-out images [n], [m].

    The mean z-score over the cells with LEAST_IN_CELL images of both kinds, each weighted by its
    held-out images; as in the authors' code not corrected for ties. NaN where no cell has enough.
    """
    scores, weights = [], []
    for cell in np.intersect1d(*cells):
        mine = generated[cells[0] == cell]
        real = held_out[cells[1] == cell]
        if min(len(mine), len(real)) >= LEAST_IN_CELL:
            scores.append(ranksums(mine, real).statistic)
            weights.append(len(real))
    return float(np.average(scores, weights=weights)) if scores else float("nan")


def data_copying_figure(
    distances: tuple[Floats, Floats], cells: tuple[Ints, Ints], rng: np.random.Generator
) -> dict[str, Figure]:
    """C_T of generated and held-out images, as "c_t"; nothing where no cell has enough of both."""

    def statistic(a: Ints, b: Ints) -> float:
        return data_copying(distances[0][a], distances[1][b], (cells[0][a], cells[1][b]))

    rows = (np.arange(len(distances[0])), np.arange(len(distances[1])))
    if np.isnan(statistic(*rows)):
        return {}
    return {"c_t": bootstrap(statistic, rows, rng, FEW_RESAMPLES)}


def near_copies(sequences: Tokens, training: Tokens, levels: tuple[int, ...]) -> NDArray[np.bool_]:
    """Whether each of `sequences` [n, k] is within one level of every digit of one row of
    `training` [N, k]: bool [n]."""
    digits, known = (
        fsq_digits(tokens, levels).reshape(len(tokens), -1) for tokens in (sequences, training)
    )
    step = max(1, PAIRS // len(training))
    starts = tqdm(range(0, len(digits), step), desc="near-copies", unit="batch", delay=3)
    farthest = (cdist(digits[start : start + step], known, "chebyshev") for start in starts)
    return np.concatenate([part.min(1) <= 1 for part in farthest])


def memorization_figures(
    generated: Tokens, index: Index, held_out: Tokens, rng: np.random.Generator
) -> dict[str, dict[str, Figure]]:
    """AuthPct, near-copies and C_T of `generated` [n, k] and of the first k tokens of `held_out`
    [M, L], for codecs with codes.

    C_T is in cells of the classes of the nearest training images, and left out where none has
    enough of both; that of held-out images compares one half of them with the other.
    """
    k = generated.shape[1]
    training, first = np.unique(index.tokens[:, :k], axis=0, return_index=True)
    known = code_vectors(training, index.levels)
    result: dict[str, dict[str, Figure]] = {}
    found: dict[str, tuple[Floats, Ints]] = {}  # distances and cells
    for who, sequences in (("generated", generated), ("held_out", held_out[:, :k])):
        codes = nearest_vectors(code_vectors(sequences, index.levels), known)
        near = near_copies(sequences, training, index.levels)
        result[who] = {"authentic": rate(authentic(codes, known)), "near_copies": rate(near)}
        found[who] = codes.first, index.classes[first[codes.rows]]
    mine, real = found["generated"], found["held_out"]
    half = rng.permutation(len(held_out)) % 2 == 0
    one, other = ([values[part] for values in real] for part in (half, ~half))
    for who, (first_set, second) in {"generated": (mine, real), "held_out": (one, other)}.items():
        distances, cells = zip(first_set, second, strict=True)
        result[who] |= data_copying_figure(distances, cells, rng)
    return result
