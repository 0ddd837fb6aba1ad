"""Contexts at any position: where they stand in the suffix tables of an index, for many sequences at once.

A sequence whose context stands in one place copies what follows there, until a context of it stands elsewhere as well.
Where that happens is a property of the corpus: it is worked out once, and a copied token then costs no search.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from imagegram.index.folder import ENDING, Index, Shard
from imagegram.index.table import pointers_at
from imagegram.machine import cores
from imagegram.sampling.aligned import bound, narrow
from imagegram.sampling.matches import Ints
from imagegram.tokens import SEPARATOR, TERMINATOR

PAYS = 50  # tokens of the corpus that `lone_contexts` looks at in the time of a search
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
    return bound(_Key(shard, 0), tokens, np.zeros(65537, np.int64), np.full(65537, len(shard.tokens)))


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
    return low, bound(_Key(shard, depth), np.full(n, END_OF_IMAGE), low, high)


def lone_contexts(shard: Shard, context: int) -> NDArray[np.bool_]:
    """Whether the `context` tokens before a place of the corpus stand nowhere else in it: bool [T + context].

    They do where the suffix that starts with them differs from both its neighbours in the table that early.
    """
    size, step = len(shard.tokens), 1 << 15  # suffixes handled at a time
    padded = np.zeros(size + context + 4, "<u2")
    padded[:size] = shard.tokens
    lone = np.zeros(size + context, bool)

    def work(first: int) -> None:
        before, after = min(1, first), min(1, max(0, size - first - step))
        places = pointers_at(shard.table, slice(first - before, first + step + after))
        same = np.arange(len(places) - 1)  # suffixes that are like the next one so far
        for done in range(0, context, 4):
            four = np.ndarray(size, "<u8", padded, 2 * done, (2,))  # tokens from every place on
            beyond = np.uint64(16 * max(0, done + 4 - context))  # bits of those past the context
            same = same[four[places[same]] << beyond == four[places[same + 1]] << beyond]
        alone = np.ones(len(places), bool)
        alone[same] = alone[same + 1] = False
        mine = slice(before, len(places) - after)
        lone[places[mine][alone[mine]] + context] = True

    with ThreadPoolExecutor(cores()) as pool:
        list(pool.map(work, range(0, size, step)))
    return lone


@dataclass(frozen=True)
class BlindMatches:
    """Matches of n sequences at any position of any image; the protocol of sampler.py."""

    index: Index
    low: Ints  # [shards, n]: ranks in each shard's suffix table
    high: Ints
    depth: Ints  # [n]: tokens of context that matched
    only: Ints  # [n]: the place of the one token that follows, where that was known without a search; else 0

    @property
    def counts(self) -> Ints:
        return np.where(self.only > 0, 1, (self.high - self.low).sum(0))

    @property
    def identity(self) -> Ints:
        return np.concatenate([self.low, self.high, self.depth[None], self.only[None]]).T

    def _places(self, rows: Ints, picks: Ints) -> tuple[Ints, Ints]:
        """Shard and place in its corpus of the tokens that follow."""
        shards, places = np.zeros(len(rows), np.int64), self.only[rows]
        searched = np.flatnonzero(places == 0)
        rows, picks = rows[searched], picks[searched]
        ends = np.cumsum((self.high - self.low)[:, rows], 0)
        shard = (picks >= ends).sum(0)
        before = np.concatenate([np.zeros((1, len(rows)), np.int64), ends])[shard, np.arange(len(rows))]
        rank = self.low[shard, rows] + picks - before
        for number, one in enumerate(self.index.shards):
            here = shard == number
            places[searched[here]] = pointers_at(one.table, rank[here]) + self.depth[rows[here]]
        shards[searched] = shard
        return shards, places

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
    from the matches makes it so unless an image ends there: one search a token, not one for every length. And none
    where there was one match: `lone_contexts` tells whether there still is, if so many tokens are drawn that it pays.
    """
    n, length = drawn.shape
    starts = [_starts(shard) for shard in index.shards]
    tokens = index.shards[0].tokens
    lone = None
    if context and len(index.shards) == 1 and PAYS * n * length > len(tokens):
        if context not in index.lone:
            index.lone[context] = lone_contexts(index.shards[0], context)
        lone = index.lone[context]
    text = np.full((n, length + 1), SEPARATOR, np.uint16)
    depth, only = np.zeros((2, n), np.int64)
    low, high = np.zeros((2, len(index.shards), n), np.int64)
    for position in range(length):
        if position:
            text[:, position] = drawn[:, position - 1]
        if position and lone is not None:
            single = np.flatnonzero((only == 0) & (high[0] - low[0] == 1))
            only[single] = pointers_at(index.shards[0].table, low[0, single]) + depth[single]
            copied = (only > 0) & (tokens[only] == drawn[:, position - 1])
            only += 1
            only[~(copied & ((depth < context) | lone[only]) & (tokens[only] < TERMINATOR))] = 0
        low, high = np.zeros((2, len(index.shards), n), np.int64)
        depth, missing = np.minimum(depth + 1, context), np.flatnonzero(only == 0)
        while missing.size:
            for wanted in np.unique(depth[missing]):
                rows = missing[depth[missing] == wanted]
                contexts = text[rows, position + 1 - wanted : position + 1]
                for number, shard in enumerate(index.shards):
                    low[number, rows], high[number, rows] = find(shard, starts[number], contexts)
            missing = missing[(high == low).all(0)[missing]]
            depth[missing] -= 1
        yield BlindMatches(index, low, high, depth.copy(), only.copy())


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
