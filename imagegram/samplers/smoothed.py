"""The distribution of the `smoothed` sampler: absolute discounting, interpolated over contexts at the same position.

Every count c of a token after a context gives up a discount D; what all t different tokens gave up goes to the next
shorter context, p = (c - D + D * t * p_shorter) / n: interpolated Kneser-Ney (Kneser & Ney, 1995; Chen & Goodman,
1999) with the plain counts of the shorter contexts. Most contexts of image tokens were seen once or twice, which
drives D towards 1: a lone continuation is then nearly always left for a shorter context, which is the way out of
copying.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from imagegram.index.folder import Index
from imagegram.samplers.aligned import Backoff, backoff
from imagegram.samplers.matches import ImageMatches, Ints, Matches, look_up, truncated
from imagegram.samplers.settings import Settings

MAX_PAIRS = 1 << 26  # of a sequence and an image, looked at together: 256 MB


def count_distinct(
    column: NDArray[np.uint16], low: Ints, high: Ints, wanted: NDArray[np.uint16] | None = None
) -> tuple[Ints, Ints]:
    """How many different tokens `column[low:high]` holds, and how often it holds `wanted`, for n ranges: int64 [n].

    Ranges of one depth are equal or disjoint, so that no image is looked at twice.
    """
    ranges, which = np.unique(np.stack([low, high], 1), axis=0, return_inverse=True)
    sizes = ranges[:, 1] - ranges[:, 0]
    ends = np.cumsum(sizes)
    places = np.arange(ends[-1]) + np.repeat(ranges[:, 0] - ends + sizes, sizes)
    pairs = np.repeat(np.arange(len(ranges)), sizes) * 65536 + column[places]
    known, counts = np.unique(pairs, return_counts=True)
    distinct = np.bincount(known // 65536, minlength=len(ranges))[which.ravel()]
    if wanted is None:
        return distinct, np.zeros_like(low)
    return distinct, look_up(known, counts, which.ravel() * 65536 + wanted)


def discounts(levels: Backoff) -> list[float]:
    """What absolute discounting takes off every count, for the contexts of 0, 1, 2 ... tokens: n1 / (n1 + 2 n2) of the
    numbers of (context, token) pairs seen once and twice (Ney, Essen & Kneser, 1994, doi:10.1006/csla.1994.1001).

    Never below 0.1, so that what was not seen stays possible.
    """
    # Sorted by the token too, images that share a context and the token are neighbours: pairs are counted unsorted.
    order = levels.order[levels.by_token]
    starts = np.ones(len(order) + 2, bool)  # of another pair, or of the end
    starts[1:-2] = False
    result = []
    for depth in range(len(levels.low)):
        column = levels.columns[depth][order]
        starts[1:-2] |= column[1:] != column[:-1]
        lone = starts[:-2] & starts[1:-1]
        once = int(np.count_nonzero(lone))
        twice = int(np.count_nonzero(starts[:-3] & ~starts[1:-2] & starts[2:-1]))
        result.append(max(0.1, once / max(1, once + 2 * twice)))
    return result


def count_following(levels: Backoff, low: Ints, high: Ints, wanted: NDArray[np.uint16]) -> Ints:
    """How often `wanted` [n] follows in the ranges [low, high) of `levels.order`: int64 [n]."""
    places = levels.by_token  # of equal tokens in ascending order
    keys = levels.following[places].astype(np.int64) << 32 | places
    asked = wanted.astype(np.int64) << 32
    return np.searchsorted(keys, asked | high) - np.searchsorted(keys, asked | low)


def smoothed_probabilities(
    index: Index, tokens: NDArray[np.uint16], settings: Settings, own: Ints | None = None
) -> NDArray[np.float64]:
    """The probability of every token of `tokens` [n, k] under the distribution that the sampler draws from: float64.

    With `own` [n], the sequences are rows of the index, and each is predicted from all others, before any reweighting.
    """
    result = np.zeros(tokens.shape)
    step = max(1, MAX_PAIRS // index.vocab_size)
    contexts = backoff(index.tokens, tokens, settings.context)
    for levels in tqdm(contexts, total=tokens.shape[1], desc="likelihood", unit="position", delay=3):
        if settings.reweighted and own is None:
            taken = discounts(levels)
            for first in range(0, len(tokens), step):
                rows = np.arange(first, min(first + step, len(tokens)))
                for row, p in zip(rows, distribution(index, levels, taken, rows), strict=True):
                    sharpened = truncated(p, settings.temperature, settings.top_k, settings.top_p)
                    result[row, levels.position] = sharpened[tokens[row, levels.position]]
            continue
        column = levels.following
        p = np.zeros(len(tokens))
        for depth, discount in enumerate(discounts(levels)):
            low = levels.low[depth]
            high = levels.high[depth]
            distinct, hits = count_distinct(column, low, high, tokens[:, levels.position])
            sizes = high - low
            if own is not None:
                distinct = distinct - (hits == 1)
                hits = np.maximum(hits - 1, 0)
                sizes = np.maximum(sizes - 1, 0)
            if depth == 0:  # at the bottom are plain counts: every token has a source
                p = hits / np.maximum(1, sizes)
                continue
            mixed = (np.maximum(hits - discount, 0) + discount * distinct * p) / np.maximum(1, sizes)
            p = np.where(sizes > 0, mixed, p)
        result[:, levels.position] = p
    return result


def distribution(index: Index, levels: Backoff, taken: list[float], rows: Ints) -> NDArray[np.float64]:
    """The next-token distributions [len(rows), vocabulary] that the sampler draws from; `taken`: `discounts`."""
    column = levels.following
    p = np.tile(np.bincount(column, minlength=index.vocab_size) / len(column), (len(rows), 1))
    for low, high, discount in zip(levels.low[1:, rows], levels.high[1:, rows], taken[1:], strict=True):
        for row in np.flatnonzero(high > low):
            counts = np.bincount(column[low[row] : high[row]], minlength=index.vocab_size)
            left = discount * np.count_nonzero(counts)
            p[row] = (np.maximum(counts - discount, 0) + left * p[row]) / (high[row] - low[row])
    return p


def draw(levels: Backoff, rng: np.random.Generator) -> Ints:
    """An image for every sequence, whose next token is drawn from `distribution`: int64 [n].

    A match of the longest context is drawn, and kept with probability (c - D) / c, where c is the count of its token;
    else the same is done with the next shorter context.
    """
    column = levels.following
    taken = discounts(levels)
    places = rng.integers(levels.low[0], levels.high[0])
    missing = np.ones(len(places), bool)
    for depth in range(len(levels.low) - 1, 0, -1):
        low = levels.low[depth]
        high = levels.high[depth]
        asked = np.flatnonzero(missing & (high > low))
        if not len(asked):
            continue
        tried = rng.integers(low[asked], high[asked])
        counts = count_following(levels, low[asked], high[asked], column[tried])
        kept = rng.random(len(asked)) * counts < counts - taken[depth]
        places[asked[kept]] = tried[kept]
        missing[asked[kept]] = False
    return levels.order[places]


def smoothed_matches(
    index: Index, settings: Settings, drawn: NDArray[np.uint16], rng: np.random.Generator
) -> Iterator[Matches]:
    """One match each, drawn from the smoothed distribution, reweighted where that is asked for."""
    step = max(1, MAX_PAIRS // index.vocab_size)
    for levels in backoff(index.tokens, drawn, settings.context):
        if not settings.reweighted:
            yield ImageMatches(index.tokens, draw(levels, rng)[:, None], levels.position)
            continue
        column = levels.following
        taken = discounts(levels)
        images = np.empty((len(drawn), 1), np.int64)
        for first in range(0, len(drawn), step):
            rows = np.arange(first, min(first + step, len(drawn)))
            for row, p in zip(rows, distribution(index, levels, taken, rows), strict=True):
                token = rng.choice(len(p), p=truncated(p, settings.temperature, settings.top_k, settings.top_p))
                for low, high in zip(levels.low[::-1, row], levels.high[::-1, row], strict=True):
                    if len(found := np.flatnonzero(column[low:high] == token)):
                        images[row] = levels.order[low + rng.choice(found)]
                        break
        yield ImageMatches(index.tokens, images, levels.position)
