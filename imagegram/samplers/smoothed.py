"""Absolute discounting, interpolated over contexts at the same position.

Every count c of a token after a context gives up a discount D; what all t different tokens gave up
goes to the next shorter context, p = (c - D + D * t * p_shorter) / n: interpolated Kneser-Ney
(Kneser & Ney, 1995; Chen & Goodman, 1999) with the plain counts of the shorter contexts. Most
contexts of image tokens were seen once or twice, which drives D towards 1: a lone continuation is
then nearly always left for a shorter context, which is the way out of copying.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from imagegram.index.folder import Index
from imagegram.samplers.aligned import Backoff, InPlace, backoff
from imagegram.samplers.matches import DrawnTokens, Floats, Ints, Matches, Tokens, look_up, numbered


@dataclass(frozen=True, kw_only=True)
class Smoothed(InPlace):
    """Contexts at the same position, a mixture of all lengths: interpolated absolute
    discounting."""

    name = "smoothed"
    with_context = (
        "The next token follows the same tokens at the same position, as a mixture of contexts of "
        "every length"
    )

    def matches(self, index: Index, drawn: Tokens, rng: np.random.Generator) -> Iterator[Matches]:
        """One match each, drawn from the smoothed distribution, perhaps reweighed."""
        for contexts in backoff(index.tokens, drawn, self.context):
            if self.reweigh is None:
                images = draw(contexts, rng)
            else:
                every = map(self.reweigh, distributions(contexts, index.vocab_size))
                images = np.array([draw_from(p, contexts, row, rng) for row, p in enumerate(every)])
            yield DrawnTokens(contexts.columns[0][images], images, contexts.position)

    def probabilities(
        self, index: Index, tokens: Tokens, *, leave_out: Ints | None = None
    ) -> Floats:
        result = np.zeros(tokens.shape)
        every = backoff(index.tokens, tokens, self.context)
        bar = tqdm(every, total=tokens.shape[1], desc="likelihood", unit="position", delay=3)
        for contexts in bar:
            position = contexts.position
            wanted = tokens[:, position]
            left_out = None if leave_out is None else wanted
            if self.reweigh is None:
                result[:, position] = shares(contexts, wanted, left_out=leave_out is not None)
                continue
            for row, p in enumerate(distributions(contexts, index.vocab_size, left_out=left_out)):
                if p.any():  # else nothing is left without the image itself
                    result[row, position] = self.reweigh(p)[wanted[row]]
        return result


def count_distinct(column: Tokens, low: Ints, high: Ints, wanted: Tokens) -> tuple[Ints, Ints]:
    """How many different tokens `column[low:high]` holds, and how often it holds `wanted`, for n
    ranges: int64 [n].

    Ranges of one depth are equal or disjoint, so that no image is looked at twice.
    """
    ranges, which = np.unique(np.stack([low, high], 1), axis=0, return_inverse=True)
    rows, numbers = numbered(ranges[:, 1] - ranges[:, 0])
    pairs = rows * 65536 + column[ranges[rows, 0] + numbers]
    known, counts = np.unique(pairs, return_counts=True)
    distinct = np.bincount(known // 65536, minlength=len(ranges))[which.ravel()]
    return distinct, look_up(known, counts, which.ravel() * 65536 + wanted)


def discounts(contexts: Backoff) -> list[float]:
    """What is taken off every count, for the contexts of 0, 1, 2 ... tokens: n1 / (n1 + 2 n2) of
    the numbers of (context, token) pairs seen once and twice (Ney, Essen & Kneser, 1994,
    doi:10.1006/csla.1994.1001).

    Never below 0.1, so that what was not seen stays possible; but 0 without context, where every
    token has a source.
    """
    # Sorted by the token too, images that share a context and the token are neighbours.
    order = contexts.order[contexts.by_token]
    starts = np.ones(len(order) + 2, bool)  # of another pair, or of the end
    starts[1:-2] = False
    result = []
    for column in contexts.columns[: len(contexts.low)]:
        starts[1:-2] |= column[order[1:]] != column[order[:-1]]
        once = int(np.count_nonzero(starts[:-2] & starts[1:-1]))
        twice = int(np.count_nonzero(starts[:-3] & ~starts[1:-2] & starts[2:-1]))
        result.append(max(0.1, once / max(1, once + 2 * twice)))
    return [0.0, *result[1:]]


def mixed(hits: Ints, distinct: Ints, sizes: Ints, discount: float, p: Floats) -> Floats:
    """The chance of a token that stands `hits` times in `sizes` matches, where `distinct` different
    tokens give up a `discount` each to the chance `p` in a shorter context."""
    given = (np.maximum(hits - discount, 0) + discount * distinct * p) / np.maximum(1, sizes)
    return np.where(sizes > 0, given, p)


def count_following(contexts: Backoff, low: Ints, high: Ints, wanted: Tokens) -> Ints:
    """How often `wanted` [n] follows in the ranges [low, high) of `contexts.order`: int64 [n]."""
    ranks = contexts.by_token  # of equal tokens in ascending order
    keys = contexts.following[ranks].astype(np.int64) << 32 | ranks
    asked = wanted.astype(np.int64) << 32
    return np.searchsorted(keys, asked | high) - np.searchsorted(keys, asked | low)


def shares(contexts: Backoff, wanted: Tokens, *, left_out: bool = False) -> Floats:
    """The smoothed probability of a token `wanted` [n] of each sequence: float64 [n].

    left_out: the sequences are images of the index, and each is predicted from all others.
    """
    p = np.zeros(len(wanted))
    ranges = zip(contexts.low, contexts.high, discounts(contexts), strict=True)
    for low, high, discount in ranges:
        distinct, hits = count_distinct(contexts.following, low, high, wanted)
        sizes = high - low
        if left_out:
            distinct = distinct - (hits == 1)
            hits = np.maximum(hits - 1, 0)
            sizes = np.maximum(sizes - 1, 0)
        p = mixed(hits, distinct, sizes, discount, p)
    return p


def distributions(
    contexts: Backoff, vocab_size: int, *, left_out: Tokens | None = None
) -> Iterator[Floats]:
    """The smoothed distribution of each of n sequences: float64 [vocab_size].

    left_out: uint16 [n], where the sequences are images of the index, their tokens: each is
    predicted from all others.
    """
    column = contexts.following
    whole = np.bincount(column, minlength=vocab_size)
    taken = discounts(contexts)
    for row in range(contexts.low.shape[1]):
        p = np.zeros(vocab_size)
        ranges = zip(contexts.low[:, row], contexts.high[:, row], taken, strict=True)
        for depth, (low, high, discount) in enumerate(ranges):
            counts = np.bincount(column[low:high], minlength=vocab_size) if depth else whole.copy()
            if left_out is not None and high > low:
                counts[left_out[row]] -= 1
            distinct = (counts > 0).sum(keepdims=True)
            p = mixed(counts, distinct, counts.sum(keepdims=True), discount, p)
        yield p


def draw_from(p: Floats, contexts: Backoff, row: int, rng: np.random.Generator) -> int:
    """An image that shares the longest context with sequence `row`, whose next token is drawn
    from `p` [vocab_size]."""
    token = rng.choice(len(p), p=p)
    for low, high in zip(contexts.low[::-1, row], contexts.high[::-1, row], strict=True):
        if len(found := np.flatnonzero(contexts.following[low:high] == token)):
            return int(contexts.order[low + rng.choice(found)])
    raise AssertionError


def draw(contexts: Backoff, rng: np.random.Generator) -> Ints:
    """An image for every sequence, whose next token is drawn from its distribution: int64 [n].

    A match of the longest context is drawn, and kept with probability (c - D) / c, where c is the
    count of its token; else the same is done with the next shorter context.
    """
    column = contexts.following
    taken = discounts(contexts)
    ranks = rng.integers(contexts.low[0], contexts.high[0])
    missing = np.ones(len(ranks), bool)
    for depth in range(len(contexts.low) - 1, 0, -1):
        low = contexts.low[depth]
        high = contexts.high[depth]
        asked = np.flatnonzero(missing & (high > low))
        if not len(asked):
            continue
        tried = rng.integers(low[asked], high[asked])
        counts = count_following(contexts, low[asked], high[asked], column[tried])
        kept = rng.random(len(asked)) * counts < counts - taken[depth]
        ranks[asked[kept]] = tried[kept]
        missing[asked[kept]] = False
    return contexts.order[ranks]
