"""Contexts at any position: where they stand in the suffix tables of an index, for many sequences at once."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from imagegram.contexts import Ints, bound, narrow
from imagegram.index import ENDING, Index, Shard
from imagegram.shards import SEPARATOR, TERMINATOR
from imagegram.suffix_array import pointers_at

END_OF_IMAGE = int(np.uint16(TERMINATOR).byteswap())  # in byte order, tokens are below and the markers are not


class _Key:
    """The token `offset` places into the suffixes of given ranks, byte-swapped: the table's order is that of bytes."""

    def __init__(self, shard: Shard, offset: int):
        self.shard, self.offset = shard, offset

    def __call__(self, ranks: Ints) -> NDArray[np.integer]:
        places = pointers_at(self.shard.table, ranks) + self.offset
        # Past the end of the corpus stands nothing: an empty suffix comes before all others.
        keys = self.shard.tokens[np.minimum(places, len(self.shard.tokens) - 1)].byteswap().astype(np.int32)
        keys[places >= len(self.shard.tokens)] = -1
        return keys


def _starts(shard: Shard) -> Ints:
    """The rank of the first suffix that starts with each token, in byte order: int64 [65537]."""
    tokens = np.arange(65537)
    return bound(_Key(shard, 0), tokens, np.zeros(65537, np.int64), np.full(65537, len(shard.tokens)), False)


def find(shard: Shard, starts: Ints, contexts: NDArray[np.uint16]) -> tuple[Ints, Ints]:
    """Ranges of the table, [n] and [n], that start with each of `contexts` [n, c] and go on with a token of the image.

    `starts` of `Searcher`.
    """
    n, depth = contexts.shape
    swapped = contexts.byteswap().astype(np.int64)
    if depth:
        low, high = starts[swapped[:, 0]], starts[swapped[:, 0] + 1]
    else:
        low, high = np.zeros(n, np.int64), np.full(n, len(shard.tokens))
    for offset in range(1, depth):
        low, high = narrow(_Key(shard, offset), swapped[:, offset], low, high)
    return low, bound(_Key(shard, depth), np.full(n, END_OF_IMAGE), low, high, False)


@dataclass(frozen=True)
class BlindMatches:
    """Matches of n sequences at any position of any image; the protocol of sampler.py."""

    index: Index
    low: Ints  # [shards, n]: ranks in each shard's suffix table
    high: Ints
    depth: Ints  # [n]: tokens of context that matched

    @property
    def counts(self) -> Ints:
        return (self.high - self.low).sum(0)

    @property
    def identity(self) -> Ints:
        return np.concatenate([self.low, self.high, self.depth[None]]).T

    def _places(self, rows: Ints, picks: Ints) -> tuple[Ints, Ints]:
        """Shard and place in its corpus of the tokens that follow."""
        ends = np.cumsum((self.high - self.low)[:, rows], 0)
        shard = (picks >= ends).sum(0)
        before = np.concatenate([np.zeros((1, len(rows)), np.int64), ends])[shard, np.arange(len(rows))]
        rank = self.low[shard, rows] + picks - before
        places = np.empty(len(rows), np.int64)
        for number, one in enumerate(self.index.shards):
            here = shard == number
            places[here] = pointers_at(one.table, rank[here]) + self.depth[rows[here]]
        return shard, places

    def next_tokens(self, rows: Ints, picks: Ints) -> NDArray[np.uint16]:
        shard, places = self._places(rows, picks)
        tokens = np.empty(len(rows), np.uint16)
        for number, one in enumerate(self.index.shards):
            tokens[shard == number] = one.tokens[places[shard == number]]
        return tokens

    def sources(self, rows: Ints, picks: Ints) -> Ints:
        shard, places = self._places(rows, picks)
        stride = self.index.tokens_per_image + 1
        images = np.cumsum([0, *((len(one.tokens) - len(ENDING)) // stride for one in self.index.shards)])
        return np.stack([images[shard] + places // stride, places % stride - 1], 1)


def blind(index: Index, drawn: NDArray[np.uint16], context: int) -> Iterator[BlindMatches]:
    """Matches of the longest suffix of the last `context` tokens (the separator counts as one, before the first) that
    stands anywhere with a token after it, for one position after another; the caller fills `drawn` [n, L] meanwhile.

    A suffix of the next position's text is at most one token longer than what matched now, and a token that was drawn
    from the matches makes it so unless an image ends there: one search a token, not one for every length.
    """
    n, length = drawn.shape
    starts = [_starts(shard) for shard in index.shards]
    text = np.full((n, length + 1), SEPARATOR, np.uint16)
    depth = np.zeros(n, np.int64)
    for position in range(length):
        if position:
            text[:, position] = drawn[:, position - 1]
        low, high = np.zeros((2, len(index.shards), n), np.int64)
        depth, missing = np.minimum(depth + 1, context), np.arange(n)
        while missing.size:
            for wanted in np.unique(depth[missing]):
                rows = missing[depth[missing] == wanted]
                contexts = text[rows, position + 1 - wanted : position + 1]
                for number, shard in enumerate(index.shards):
                    low[number, rows], high[number, rows] = find(shard, starts[number], contexts)
            missing = missing[(high == low).all(0)[missing]]
            depth[missing] -= 1
        yield BlindMatches(index, low, high, depth.copy())


def longest_runs(index: Index, sequences: NDArray[np.uint16]) -> Ints:
    """From every token of `sequences` [n, k] on, how many tokens stand in a row in one indexed image, anywhere: int64
    [n, k]. The matching statistics of Chang & Lawler (1994, doi:10.1007/BF01185431), by bisection of the tables."""
    n, k = sequences.shape
    lengths = np.zeros(n * k, np.int64)
    swapped = sequences.byteswap().astype(np.int64)
    rows, places = np.divmod(np.arange(n * k), k)
    for shard in index.shards:
        starts, alive = _starts(shard), np.arange(n * k)
        low, high = starts[swapped.ravel()], starts[swapped.ravel() + 1]
        for length in range(1, k + 1):
            found = high > low
            alive, low, high = alive[found], low[found], high[found]
            lengths[alive] = np.maximum(lengths[alive], length)
            inside = places[alive] + length < k
            alive, low, high = alive[inside], low[inside], high[inside]
            if not alive.size:
                break
            wanted = swapped[rows[alive], places[alive] + length]
            low, high = narrow(_Key(shard, length), wanted, low, high)
    return lengths.reshape(n, k)
