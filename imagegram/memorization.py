"""What was copied: generated token sequences against the training sequences of the index, with held-out real images
measured the same way as the control.

Every figure is {"value", "low", "high"} with a 95 % interval: Wilson's for rates, the bootstrap over images for means.
"""

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

Figure = dict[str, float]
Tokens = NDArray[np.uint16]
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
    real ones that the index never saw, 1 for a copier (Meehan et al., 2020, arXiv:2004.05675). Bootstrap over both.
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
    return {"value": probability(generated, held_out), "low": float(low), "high": float(high)}


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


def match_lengths(sequences: Tokens, training: Tokens, in_place: bool = False) -> NDArray[np.int64]:
    """From every token of `sequences` [n, k] on, how many tokens stand in a row in one row of `training` [N, L]; at
    any position, or (`in_place`) at their own. int64 [n, k].

    Runs grow by a token a round; only starts whose run so far is found on both sides stay in the race.
    """
    n, k = sequences.shape
    lengths = np.zeros((n, k), np.int64)
    rows, starts = np.divmod(np.arange(n * k), k)
    images, places = np.divmod(np.arange(training.size), training.shape[1])
    run, other = starts * in_place, places * in_place  # numbers of the runs so far
    for length in range(1, k + 1):
        inside, within = starts + length <= k, places + length <= training.shape[1]
        rows, starts, run = rows[inside], starts[inside], run[inside]
        images, places, other = images[within], places[within], other[within]
        run = run * 65536 + sequences[rows, starts + length - 1]
        other = other * 65536 + training[images, places + length - 1]
        known = np.unique(run)
        spots = np.searchsorted(known, other).clip(max=len(known) - 1)
        common = known[spots] == other if len(known) else np.zeros(0, bool)
        images, places, other = images[common], places[common], spots[common]
        found = np.zeros(len(known), bool)
        found[other] = True
        run = np.searchsorted(known, run)
        alive = found[run]
        rows, starts, run = rows[alive], starts[alive], run[alive]
        if not len(rows):
            break
        lengths[rows, starts] = length
    return lengths


def pieces(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many pieces of training images each sequence is put together from, at least: 1 is a copy. `lengths` [n, k]
    is of `match_lengths`. The longest match first is optimal; a token that occurs nowhere is a piece of its own.
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


def describe(
    sequences: Tokens, training: Tokens, rng: np.random.Generator
) -> tuple[dict[str, Figure], NDArray[np.int64]]:
    """The figures of one set of sequences [n, k], and their distances to the nearest training sequence.

    exact_copies, shifted_copies, mosaics, novel: shares of the four kinds of `classify`. longest_run,
    nearest_distance: means, in tokens. pieces, copied_share: means of the functions of these names.
    """
    n = len(sequences)
    _, distances = nearest(sequences, training)
    lengths = match_lengths(sequences, training)
    kinds = classify(lengths, match_lengths(sequences, training, in_place=True))
    figures = {name: wilson(int((kinds == kind).sum()), n) for kind, name in enumerate(KINDS)}
    figures |= {
        "longest_run": mean(lengths.max(1), rng),
        "nearest_distance": mean(distances, rng),
        "pieces": mean(pieces(lengths), rng),
        "copied_share": mean(copied(lengths), rng),
    }
    return figures, distances


def measure(
    generated: Tokens, training: Tokens, held_out: Tokens, rng: np.random.Generator
) -> dict[str, dict[str, Figure]]:
    """All figures of `generated` [n, k] and of `held_out` [M, L], against `training` [N, L]."""
    figures, distances = describe(generated, training, rng)
    if not len(held_out):
        return {"generated": figures}
    control, real = describe(held_out[:, : generated.shape[1]], training, rng)
    return {"generated": figures | {"closer_than_held_out": closer(distances, real, rng)}, "held_out": control}
