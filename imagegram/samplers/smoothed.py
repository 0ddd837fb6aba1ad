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
from numpy.typing import NDArray
from tqdm import tqdm

from imagegram.index.folder import Index
from imagegram.samplers.aligned import ALONE, Backoff, backoff
from imagegram.samplers.base import Sampler, Tokens
from imagegram.samplers.matches import DrawnTokens, Ints, look_up


@dataclass(frozen=True, kw_only=True)
class Smoothed(Sampler):
    """Contexts at the same position, a mixture of all lengths: interpolated absolute
    discounting."""

    name = "smoothed"

    context: int = 2  # tokens at most; 0: each position on its own

    @property
    def how(self) -> str:
        if self.context == 0:
            return ALONE
        return (
            "The next token follows the same tokens at the same position, as a mixture of "
            "contexts of every length"
        )

    def matches(
        self, index: Index, drawn: Tokens, rng: np.random.Generator
    ) -> Iterator[DrawnTokens]:
        """One match each, drawn from the smoothed distribution, reweighed where that is asked
        for."""
        for contexts in backoff(index.tokens, drawn, self.context):
            images = (
                self._draw_reweighed(index, contexts, rng)
                if self.reweighted
                else draw(contexts, rng)
            )
            yield DrawnTokens(contexts.columns[0][images], images, contexts.position)

    def probabilities(
        self, index: Index, tokens: Tokens, *, leave_out: Ints | None = None
    ) -> NDArray[np.float64]:
        result = np.zeros(tokens.shape)
        every = backoff(index.tokens, tokens, self.context)
        for contexts in tqdm(
            every, total=tokens.shape[1], desc="likelihood", unit="position", delay=3
        ):
            wanted = tokens[:, contexts.position]
            if not self.reweighted:
                result[:, contexts.position] = shares(
                    contexts, wanted, left_out=leave_out is not None
                )
                continue
            left_out = None if leave_out is None else wanted
            for row, p in enumerate(distributions(contexts, index.vocab_size, left_out=left_out)):
                if p.any():  # else nothing is left without the image itself
                    result[row, contexts.position] = self.reweigh(p)[wanted[row]]
        return result

    def _draw_reweighed(self, index: Index, contexts: Backoff, rng: np.random.Generator) -> Ints:
        """An image for every sequence, whose next token is drawn from its reweighed distribution:
        int64 [n]."""
        images = np.empty(contexts.low.shape[1], np.int64)
        for row, p in enumerate(distributions(contexts, index.vocab_size)):
            token = rng.choice(len(p), p=self.reweigh(p))
            # An image with that token, of those that share the longest context with the sequence.
            for low, high in zip(contexts.low[::-1, row], contexts.high[::-1, row], strict=True):
                if len(found := np.flatnonzero(contexts.following[low:high] == token)):
                    images[row] = contexts.order[low + rng.choice(found)]
                    break
        return images


def count_distinct(column: Tokens, low: Ints, high: Ints, wanted: Tokens) -> tuple[Ints, Ints]:
    """How many different tokens `column[low:high]` holds, and how often it holds `wanted`, for n
    ranges: int64 [n].

    Ranges of one depth are equal or disjoint, so that no image is looked at twice.
    """
    ranges, which = np.unique(np.stack([low, high], 1), axis=0, return_inverse=True)
    sizes = ranges[:, 1] - ranges[:, 0]
    ends = np.cumsum(sizes)
    members = np.arange(ends[-1]) + np.repeat(ranges[:, 0] - ends + sizes, sizes)
    pairs = np.repeat(np.arange(len(ranges)), sizes) * 65536 + column[members]
    known, counts = np.unique(pairs, return_counts=True)
    distinct = np.bincount(known // 65536, minlength=len(ranges))[which.ravel()]
    return distinct, look_up(known, counts, which.ravel() * 65536 + wanted)


def discounts(contexts: Backoff) -> list[float]:
    """What absolute discounting takes off every count, for the contexts of 0, 1, 2 ... tokens: n1 /
    (n1 + 2 n2) of the numbers of (context, token) pairs seen once and twice (Ney, Essen & Kneser,
    1994, doi:10.1006/csla.1994.1001).

    Never below 0.1, so that what was not seen stays possible.
    """
    # Sorted by the token too, images that share a context and the token are neighbours: pairs are
    # counted unsorted.
    order = contexts.order[contexts.by_token]
    starts = np.ones(len(order) + 2, bool)  # of another pair, or of the end
    starts[1:-2] = False
    result = []
    for depth in range(len(contexts.low)):
        column = contexts.columns[depth][order]
        starts[1:-2] |= column[1:] != column[:-1]
        lone = starts[:-2] & starts[1:-1]
        once = int(np.count_nonzero(lone))
        twice = int(np.count_nonzero(starts[:-3] & ~starts[1:-2] & starts[2:-1]))
        result.append(max(0.1, once / max(1, once + 2 * twice)))
    return result


def count_following(contexts: Backoff, low: Ints, high: Ints, wanted: NDArray[np.uint16]) -> Ints:
    """How often `wanted` [n] follows in the ranges [low, high) of `contexts.order`: int64 [n]."""
    ranks = contexts.by_token  # of equal tokens in ascending order
    keys = contexts.following[ranks].astype(np.int64) << 32 | ranks
    asked = wanted.astype(np.int64) << 32
    return np.searchsorted(keys, asked | high) - np.searchsorted(keys, asked | low)


def shares(
    contexts: Backoff, wanted: NDArray[np.uint16], *, left_out: bool = False
) -> NDArray[np.float64]:
    """The smoothed probability of a token `wanted` [n] of each sequence: float64 [n].

    left_out: the sequences are images of the index, and each is predicted from all others.
    """
    p = np.zeros(len(wanted))
    for depth, discount in enumerate(discounts(contexts)):
        low = contexts.low[depth]
        high = contexts.high[depth]
        distinct, hits = count_distinct(contexts.following, low, high, wanted)
        sizes = high - low
        if left_out:
            distinct = distinct - (hits == 1)
            hits = np.maximum(hits - 1, 0)
            sizes = np.maximum(sizes - 1, 0)
        if depth == 0:  # at the bottom are plain counts: every token has a source
            p = hits / np.maximum(1, sizes)
            continue
        mixed = (np.maximum(hits - discount, 0) + discount * distinct * p) / np.maximum(1, sizes)
        p = np.where(sizes > 0, mixed, p)
    return p


def distributions(
    contexts: Backoff, vocab_size: int, *, left_out: NDArray[np.uint16] | None = None
) -> Iterator[NDArray[np.float64]]:
    """The smoothed distribution of each of n sequences: float64 [vocab_size].

    left_out: uint16 [n], where the sequences are images of the index, their tokens: each is
    predicted from all others.
    """
    column = contexts.following
    whole = np.bincount(column, minlength=vocab_size)
    taken = discounts(contexts)
    for row in range(contexts.low.shape[1]):
        p = np.zeros(vocab_size)
        for depth, discount in enumerate(taken):
            low = contexts.low[depth, row]
            high = contexts.high[depth, row]
            counts = (
                whole.copy() if depth == 0 else np.bincount(column[low:high], minlength=vocab_size)
            )
            if left_out is not None and high > low:
                counts[left_out[row]] -= 1
            total = counts.sum()
            if depth == 0:
                p = counts / max(1, total)
            elif total:
                spared = discount * np.count_nonzero(counts)
                p = (np.maximum(counts - discount, 0) + spared * p) / total
        yield p


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
