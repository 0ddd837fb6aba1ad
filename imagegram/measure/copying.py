"""What was copied: generated token sequences against the training sequences of the index, with held-out real images
measured the same way as the control.

Every figure is {"value", "low", "high"} with a 95 % interval: Wilson's for rates, the bootstrap over images for means.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import mannwhitneyu
from tqdm import tqdm

from imagegram.index.folder import Index
from imagegram.sampling.aligned import ladder
from imagegram.sampling.ntd import longest_runs
from imagegram.sampling.soft import MAX_PAIRS, PrefixDistances

Figure = dict[str, float]
Tokens = NDArray[np.uint16]
Distances = dict[str, NDArray[np.float64]]
PAIRS = 1 << 26  # pairs of a generated and a training sequence compared at a time
RESAMPLES = 1000
RUN = 4  # tokens: shorter runs are not counted as copied
KINDS = ("exact_copies", "shifted_copies", "mosaics", "novel")


def wilson(hits: int, n: int) -> Figure:
    """A rate with Wilson's 95 % score interval (1927): sound at 0 and at n hits, where hits / n +- 2 sigma is not."""
    z, p = 1.959964, hits / n
    centre, spread = p + z * z / (2 * n), z * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    low = 0.0 if hits == 0 else float((centre - spread) / scale)
    high = 1.0 if hits == n else float((centre + spread) / scale)
    return {"value": p, "low": low, "high": high}


def mean(values: NDArray[np.number], rng: np.random.Generator) -> Figure:
    """A mean with its 95 % percentile bootstrap interval."""
    means = [values[rng.integers(0, len(values), len(values))].mean() for _ in range(RESAMPLES)]
    low, high = np.percentile(means, [2.5, 97.5])
    return {"value": float(values.mean()), "low": float(low), "high": float(high)}


def closer(generated: NDArray[np.number], held_out: NDArray[np.number], rng: np.random.Generator) -> Figure:
    """P(d_generated < d_held_out), ties counted half: 0.5 where generated images are as far from the training set as
    real ones that the index never saw, 1 for a copier: the three-sample test of Meehan et al. (2020,
    arXiv:2004.05675), whose statistic is this probability's U. Bootstrap over both; `p_value` is Mann & Whitney's,
    two-sided, that both are as far.
    """

    def probability(a: NDArray[np.number], b: NDArray[np.number]) -> float:
        ordered = np.sort(b)
        above = len(b) - np.searchsorted(ordered, a, "right")
        ties = np.searchsorted(ordered, a, "right") - np.searchsorted(ordered, a, "left")
        return float((above + 0.5 * ties).mean() / len(b))

    draws = [
        probability(
            generated[rng.integers(0, len(generated), len(generated))],
            held_out[rng.integers(0, len(held_out), len(held_out))],
        )
        for _ in range(RESAMPLES)
    ]
    low, high = np.percentile(draws, [2.5, 97.5])
    p_value = float(mannwhitneyu(generated, held_out).pvalue)
    return {"value": probability(generated, held_out), "low": float(low), "high": float(high), "p_value": p_value}


def nearest(sequences: Tokens, training: Tokens) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """For each of `sequences` [n, k] the row of `training` [N, L >= k] that differs in the fewest of the first k
    tokens, and that number (Hamming distance): int64 [n] each. The first such row where several are as near.
    """
    n, k = sequences.shape
    columns = np.ascontiguousarray(training[:, :k].T)
    step = max(1, PAIRS // len(training))
    rows, distances = np.empty(n, np.int64), np.empty(n, np.int64)
    starts = range(0, n, step)
    for start in tqdm(starts, desc="nearest training sequences", unit="batch", disable=len(starts) < 4):
        part = slice(start, start + step)
        equal = np.zeros((len(sequences[part]), len(training)), np.uint16)
        for position in range(k):
            equal += columns[position][None, :] == sequences[part, position, None]
        rows[part] = equal.argmax(1)
        distances[part] = k - equal.max(1)
    return rows, distances


def nearest_in_codes(sequences: Tokens, index: Index) -> NDArray[np.float32]:
    """For each of `sequences` [n, k] the squared distance in FSQ code space to the nearest indexed image, summed over
    the k tokens: float32 [n]. It knows, as Hamming distance does not, that a token can be nearly the same."""
    result = np.empty(len(sequences), np.float32)
    step = max(1, MAX_PAIRS // index.num_images)
    for start in range(0, len(sequences), step):
        part = sequences[start : start + step]
        distances = PrefixDistances(index.tokens, index.levels, index.vocab_size, len(part))
        for position in range(part.shape[1]):
            distances.add(position, part[:, position])
        result[start : start + step] = distances.smallest()
    return result


def aligned_runs(sequences: Tokens, training: Tokens) -> NDArray[np.int64]:
    """From every token of `sequences` [n, k] on, how many tokens stand in a row at the same positions in one row of
    `training` [N, L >= k]: int64 [n, k]. `longest_runs` of suffixes.py finds those at any position."""
    n, k = sequences.shape
    lengths, places = np.zeros((n, k), np.int64), np.arange(k)
    padded = np.concatenate([sequences, np.zeros((n, 1), np.uint16)], 1)
    for rungs in ladder(training, padded, k):
        end = rungs.position  # the longest run that ends before it; what starts inside that run reaches as far
        first = end - (rungs.high - rungs.low > 0)[1:].sum(0)
        inside = (places >= first[:, None]) & (places < end)
        lengths = np.where(inside, end - places, lengths)
    return lengths


def novelty(lengths: NDArray[np.int64]) -> list[float]:
    """The n-novelty curve (McCoy et al., 2023, doi:10.1162/tacl_a_00567): for n = 1, 2 ... k the share of n-grams that
    stand nowhere in the training set. `lengths` [n, k]: runs at any position."""
    k = lengths.shape[1]
    return [float((lengths[:, : k - n + 1] < n).mean()) for n in range(1, k + 1)]


def pieces(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many pieces of training images each sequence is put together from, at least: 1 is a copy. `lengths` [n, k]:
    runs at any position. The longest match first is optimal; a token that occurs nowhere is a piece of its own.
    """
    n, k = lengths.shape
    place, count = np.zeros(n, np.int64), np.zeros(n, np.int64)
    while (going := np.flatnonzero(place < k)).size:
        place[going] += np.maximum(1, lengths[going, place[going]])
        count[going] += 1
    return count


def copied(lengths: NDArray[np.int64], at_least: int = RUN) -> NDArray[np.float64]:
    """The share of each sequence's tokens that lie in a match of `at_least` tokens. `lengths` [n, k]: as above."""
    k = lengths.shape[1]
    end = np.maximum.accumulate(np.where(lengths >= at_least, np.arange(k) + lengths, 0), axis=1)
    return (end > np.arange(k)).mean(1)


def classify(lengths: NDArray[np.int64], in_place: NDArray[np.int64]) -> NDArray[np.int64]:
    """What each sequence is, an index into KINDS, from its matches at any position and at their own [n, k]:

    an exact copy where all tokens stand in one image where they stood; else a shifted copy where half of them or
    more come in one run that stands nowhere at its own place; else a mosaic where half of them or more lie in runs
    of at least RUN tokens; else novel. Short runs are shared by chance: compare with held-out images.
    """
    k = lengths.shape[1]
    run, aligned = lengths.max(1), in_place.max(1)
    shifted = (2 * run >= k) & (run > aligned)
    return np.select([aligned == k, shifted, copied(lengths) >= 0.5], [0, 1, 2], 3)


def describe(sequences: Tokens, index: Index, rng: np.random.Generator) -> tuple[dict[str, Any], Distances]:
    """The figures of one set of sequences [n, k], and their distances to the nearest training sequence.

    exact_copies, shifted_copies, mosaics, novel: shares of the four kinds of `classify`. longest_run, in tokens;
    pieces, copied_share: means of the functions of these names. nearest_distance: in tokens; nearest_in_codes: the
    squared distance in code space, where the codec has codes.
    """
    n = len(sequences)
    distances = {"tokens": nearest(sequences, index.tokens)[1].astype(np.float64)}
    if index.levels:
        distances["codes"] = nearest_in_codes(sequences, index).astype(np.float64)
    lengths = longest_runs(index, sequences)
    kinds = classify(lengths, aligned_runs(sequences, index.tokens))
    figures: dict[str, Any] = {name: wilson(int((kinds == kind).sum()), n) for kind, name in enumerate(KINDS)}
    figures |= {
        "longest_run": mean(lengths.max(1), rng),
        "pieces": mean(pieces(lengths), rng),
        "copied_share": mean(copied(lengths), rng),
        "nearest_distance": mean(distances["tokens"], rng),
    }
    if index.levels:
        figures["nearest_in_codes"] = mean(distances["codes"], rng)
    return figures | {"novelty": novelty(lengths)}, distances


def measure(generated: Tokens, index: Index, held_out: Tokens, rng: np.random.Generator) -> dict[str, dict[str, Any]]:
    """All figures of `generated` [n, k], and of the first k tokens of `held_out` [M, L]: the control.

    `closer_than_held_out` and `closer_in_codes` compare their distances to the nearest training sequence.
    """
    figures, distances = describe(generated, index, rng)
    if not len(held_out):
        return {"generated": figures}
    control, real = describe(held_out[:, : generated.shape[1]], index, rng)
    for name, key in (("tokens", "closer_than_held_out"), ("codes", "closer_in_codes")):
        if name in distances:
            figures[key] = closer(distances[name], real[name], rng)
    return {"generated": figures, "held_out": control}
