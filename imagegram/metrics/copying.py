"""What was copied: generated token sequences against the training sequences of the index, with
held-out real images measured the same way to compare with.

Every figure has a 95 % interval: Wilson's for rates, the bootstrap over images for means.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from imagegram.index.engine import Engine
from imagegram.index.folder import Index
from imagegram.metrics.intervals import mean, probability_closer, rate
from imagegram.metrics.nearest import two_nearest
from imagegram.metrics.registry import CLOSER, CLOSER_IN_CODES
from imagegram.samplers.aligned import backoff

Tokens = NDArray[np.uint16]
Floats = NDArray[np.float64]
PAIRS = 1 << 26  # pairs of a generated and a training sequence compared at a time
RUN = 4  # tokens: shorter runs are not counted as copied
KINDS = ("exact_copies", "shifted_copies", "mosaics", "novel")


def nearest(sequences: Tokens, training: Tokens) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """For each of `sequences` [n, k] the first row of `training` [N, L >= k] that differs in the
    fewest of the first k tokens, and that number (Hamming distance): int64 [n] each."""
    n, k = sequences.shape
    columns = np.ascontiguousarray(training[:, :k].T)
    step = max(1, PAIRS // len(training))
    rows, distances = np.empty((2, n), np.int64)
    starts = range(0, n, step)
    for start in tqdm(starts, desc="nearest training sequences", unit="batch", delay=3):
        part = slice(start, start + step)
        equal = np.zeros((len(sequences[part]), len(training)), np.uint16)
        for position, column in enumerate(columns):
            equal += column == sequences[part, position, None]
        rows[part] = equal.argmax(1)
        distances[part] = k - equal.max(1)
    return rows, distances


def aligned_runs(sequences: Tokens, training: Tokens) -> NDArray[np.int64]:
    """From every token of `sequences` [n, k] on, how many stand in a row at the same positions in
    one row of `training` [N, L >= k]: int64 [n, k]. At any position: `Engine.longest_matches`."""
    n, k = sequences.shape
    lengths = np.zeros((n, k), np.int64)
    positions = np.arange(k)
    padded = np.concatenate([sequences, np.zeros((n, 1), np.uint16)], 1)
    contexts = backoff(training, padded, k)
    for shared in tqdm(contexts, total=k + 1, desc="runs in place", unit="position", delay=3):
        # the longest run that ends before it; what starts inside that run reaches as far
        end = shared.position
        first = end - (shared.high - shared.low > 0)[1:].sum(0)
        inside = (positions >= first[:, None]) & (positions < end)
        lengths = np.where(inside, end - positions, lengths)
    return lengths


def novelty(lengths: NDArray[np.int64]) -> list[float]:
    """The n-novelty curve (McCoy et al., 2023, doi:10.1162/tacl_a_00567): for n = 1, 2 ... k the
    share of n-grams that stand nowhere in the training set. `lengths` [n, k]: runs at any position.

    >>> novelty(np.array([[2, 1, 0]]))
    [0.3333333333333333, 0.5, 1.0]
    """
    k = lengths.shape[1]
    return [float((lengths[:, : k - n + 1] < n).mean()) for n in range(1, k + 1)]


def pieces(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many pieces of training images each sequence is put together from, at least: 1 is a copy.
    `lengths` [n, k]: as above. The longest match first is optimal; a token that occurs nowhere is a
    piece of its own."""
    n, k = lengths.shape
    position = np.zeros(n, np.int64)
    count = np.zeros(n, np.int64)
    while (going := np.flatnonzero(position < k)).size:
        position[going] += np.maximum(1, lengths[going, position[going]])
        count[going] += 1
    return count


def copied(lengths: NDArray[np.int64], at_least: int = RUN) -> NDArray[np.float64]:
    """The share of each sequence's tokens in matches of `at_least` tokens. `lengths`: as above."""
    k = lengths.shape[1]
    end = np.maximum.accumulate(np.where(lengths >= at_least, np.arange(k) + lengths, 0), axis=1)
    return (end > np.arange(k)).mean(1)


def classify(lengths: NDArray[np.int64], in_place: NDArray[np.int64]) -> NDArray[np.int64]:
    """What each sequence is, an index into KINDS, from its matches at any position and at their own
    [n, k]:

    an exact copy where all tokens stand in one image where they stood; else a shifted copy where
    half of them or more come in one run that stands nowhere at its own place; else a mosaic where
    half of them or more lie in runs of at least RUN tokens; else novel. Short runs are shared by
    chance: compare with held-out images. Mosaics of training patches are how convolutional
    diffusion models come to new images (Kamb & Ganguli, 2024, arXiv:2412.20292).
    """
    k = lengths.shape[1]
    run, aligned = lengths.max(1), in_place.max(1)
    shifted = (2 * run >= k) & (run > aligned)
    return np.select([aligned == k, shifted, copied(lengths) >= 0.5], [0, 1, 2], 3)


def describe(
    sequences: Tokens, index: Index, rng: np.random.Generator
) -> tuple[dict[str, Any], dict[str, Floats]]:
    """The figures of one set of sequences [n, k], by their keys of registry.py, and the distances
    to the nearest training images, float64 [n] each: in tokens for CLOSER, in codes, where there
    are any, for CLOSER_IN_CODES."""
    lengths = Engine(index).longest_matches(sequences)
    kinds = classify(lengths, aligned_runs(sequences, index.tokens))
    distances = {CLOSER.key: nearest(sequences, index.tokens)[1].astype(np.float64)}
    figures: dict[str, Any] = {name: rate(kinds == kind) for kind, name in enumerate(KINDS)}
    figures |= {
        "longest_run": mean(lengths.max(1), rng),
        "pieces": mean(pieces(lengths), rng),
        "copied_share": mean(copied(lengths), rng),
        "nearest_distance": mean(distances[CLOSER.key], rng),
        "novelty": novelty(lengths),
    }
    if index.levels:
        codes = two_nearest(
            sequences, np.unique(index.tokens[:, : sequences.shape[1]], axis=0), index.levels
        )
        distances[CLOSER_IN_CODES.key] = codes.first
        figures["nearest_in_codes"] = mean(codes.first**2, rng)
        figures["f_mem"] = rate(codes.memorized)
    return figures, distances


def measure(
    generated: Tokens, index: Index, held_out: Tokens, rng: np.random.Generator
) -> dict[str, dict[str, Any]]:
    """All figures of `generated` [n, k], and of the first k tokens of `held_out` [M, L]."""
    figures, mine = describe(generated, index, rng)
    if not len(held_out):
        return {"generated": figures}
    real_figures, real = describe(held_out[:, : generated.shape[1]], index, rng)
    figures |= {key: probability_closer(mine[key], real[key], rng) for key in mine}
    return {"generated": figures, "held_out": real_figures}
