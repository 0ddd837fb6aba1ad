"""Sampler `ntd`: contexts anywhere in the corpus, the plain infini-gram (Liu et al., 2024, arXiv:2401.17377).

The places of a context come from Fastgram (index/engine.py).

A sequence whose context stands in one place copies what follows there, until a context of it stands elsewhere as well.
While it copies, most tokens cost no search: a context that contains a run of tokens which stands in one place stands in
that place only. For many sequences, where contexts stand once is worked out for the whole corpus.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from imagegram.index.engine import Engine
from imagegram.index.folder import ENDING, Index, Shard
from imagegram.index.table import pointers_at
from imagegram.machine import cores
from imagegram.sampling.matches import Ints
from imagegram.tokens import SEPARATOR, TERMINATOR

COPY_SHARDS = 1  # shards of the largest index in which sequences that copy are followed; in others each is searched for
PAYS = 30  # tokens of the corpus that `unique_contexts` looks at, in the time in which one token is copied without it


def unique_contexts(shard: Shard, context: int) -> NDArray[np.bool_]:
    """Whether the `context` tokens before each place of the corpus stand nowhere else in it: bool [T + context].

    They do where the suffix that starts with them differs that early from both its neighbours in the suffix table.
    """
    size = len(shard.tokens)
    step = 1 << 15  # suffixes handled at a time
    padded = np.zeros(size + context + 4, "<u2")
    padded[:size] = shard.tokens
    unique = np.zeros(size + context, bool)

    def work(first: int) -> None:
        before = min(1, first)
        after = min(1, max(0, size - first - step))
        places = pointers_at(shard.table, slice(first - before, first + step + after))
        same = np.arange(len(places) - 1)  # suffixes that are like the next one so far
        for done in range(0, context, 4):
            four = np.ndarray(size, "<u8", padded, 2 * done, (2,))  # the four tokens from every place on
            beyond = np.uint64(16 * max(0, done + 4 - context))  # bits of those past the context
            if done == 0:
                keys = four[places] << beyond
                same = np.flatnonzero(keys[:-1] == keys[1:])
            else:
                same = same[four[places[same]] << beyond == four[places[same + 1]] << beyond]
        alone = np.ones(len(places), bool)
        alone[same] = False
        alone[same + 1] = False
        mine = slice(before, len(places) - after)
        unique[places[mine][alone[mine]] + context] = True

    with ThreadPoolExecutor(cores()) as pool:
        list(pool.map(work, range(0, size, step)))
    return unique


@dataclass(frozen=True)
class MatchesAnywhere:
    """Matches of n sequences at any position of any image; the protocol of matches.py."""

    index: Index
    low: Ints  # [shards, n]: ranks in each shard's suffix table
    high: Ints  # [shards, n]
    depth: Ints  # [n]: tokens of context that matched
    copy_from: Ints  # [n]: the place of the one token that follows, where that was known without a search; else 0

    @property
    def counts(self) -> Ints:
        return np.where(self.copy_from > 0, 1, (self.high - self.low).sum(0))

    @property
    def identity(self) -> Ints:
        return np.concatenate([self.low, self.high, self.depth[None], self.copy_from[None]]).T

    def _places(self, rows: Ints, picks: Ints) -> tuple[Ints, Ints]:
        """Shard [m] and place in its corpus [m] of the tokens that follow."""
        shards = np.zeros(len(rows), np.int64)
        places = self.copy_from[rows]
        searched = np.flatnonzero(places == 0)
        rows = rows[searched]
        picks = picks[searched]

        # The matches are numbered through the shards: the first whose count reaches beyond the pick holds it.
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


def matches_anywhere(index: Index, drawn: NDArray[np.uint16], context: int) -> Iterator[MatchesAnywhere]:
    """Matches of the longest suffix of the last `context` tokens that stands anywhere with a token after it.

    For every position of `drawn` [n, L]; the separator counts as one token, before the first.

    A suffix of the next position's text is at most one token longer than what matched now, and a token that was drawn
    from the matches makes it so unless an image ends there: one search a token, not one for every length. And fewer
    where there was one match: then the next contexts have one match too, as long as they contain what was searched for.
    """
    n, length = drawn.shape
    engine = Engine(index)
    tokens = index.shards[0].tokens
    copying = context > 0 and len(index.shards) <= COPY_SHARDS
    pays = copying and PAYS * n * length > len(tokens)
    unique = unique_contexts(index.shards[0], context) if pays else None

    text = np.full((n, length + 1), SEPARATOR, np.uint16)
    depth = np.zeros(n, np.int64)
    copy_from = np.zeros(n, np.int64)
    single_until = np.zeros(n, np.int64)  # contexts that end at or before this place of the corpus have one match
    low = np.zeros((len(index.shards), n), np.int64)
    high = np.zeros((len(index.shards), n), np.int64)
    for position in range(length):
        if position:
            text[:, position] = drawn[:, position - 1]

        # 1) Sequences that go on copying from where their one match stood.
        if position and copying:
            found = np.flatnonzero((copy_from == 0) & (high[0] - low[0] == 1))
            start = pointers_at(index.shards[0].table, low[0, found])
            copy_from[found] = start + depth[found]
            single_until[found] = start + context
            copied = (copy_from > 0) & (tokens[copy_from] == drawn[:, position - 1])
            copy_from += 1
            copied &= tokens[copy_from] < TERMINATOR
            unsure = np.flatnonzero(copied & (copy_from > single_until))
            if unique is not None:
                copied[unsure] = unique[copy_from[unsure]]
            else:
                # Half of the context stands in one place as a rule, and vouches for as many tokens to come.
                half = context // 2
                low, high = engine.find(text[unsure, position + 1 - half : position + 1])
                copied[unsure] = (high - low)[0] == 1
                single_until[unsure] = copy_from[unsure] - half + context
            copy_from[~copied] = 0

        # 2) The others are searched for, with a token less until something is found.
        low = np.zeros((len(index.shards), n), np.int64)
        high = np.zeros((len(index.shards), n), np.int64)
        depth = np.minimum(depth + 1, context)
        missing = np.flatnonzero(copy_from == 0)
        while missing.size:
            for wanted in np.unique(depth[missing]):
                rows = missing[depth[missing] == wanted]
                contexts = text[rows, position + 1 - wanted : position + 1]
                low[:, rows], high[:, rows] = engine.find(contexts)
            missing = missing[(high == low).all(0)[missing]]
            depth[missing] -= 1
        yield MatchesAnywhere(index, low, high, depth.copy(), copy_from.copy())


def longest_runs(index: Index, sequences: NDArray[np.uint16]) -> Ints:
    """From every token of `sequences` [n, k] on, the tokens that stand in a row in one indexed image: int64 [n, k]."""
    return Engine(index).longest_matches(sequences)
