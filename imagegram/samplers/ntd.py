"""Contexts anywhere in the corpus: the plain infini-gram (Liu et al., 2024, arXiv:2401.17377).

The offsets of a context in the corpus come from Fastgram (index/engine.py).

A sequence whose context stands at one offset copies what follows there, until a context of it stands
elsewhere as well. While it copies, most tokens cost no search: a context that contains a run of
tokens which stands once stands there only. For many sequences, where contexts stand once is worked
out for the whole corpus.
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
from imagegram.samplers.base import Sampler, Tokens
from imagegram.samplers.matches import Ints
from imagegram.tokens import SEPARATOR, TERMINATOR

FOLLOW_COPIES = True  # False, of tests: every token is searched for
PAYS = 30  # tokens of the corpus that `unique_contexts` looks at, in the time in which one token is copied without it


@dataclass(frozen=True, kw_only=True)
class Ntd(Sampler):
    """The longest context that occurs anywhere in the training images: the plain infini-gram."""

    name = "ntd"
    how = "The next token is one that follows the same tokens anywhere in the training images: infini-gram"

    context: int = 2  # tokens at most, of which the separator before the first counts as one

    def matches(self, index: Index, drawn: Tokens, rng: np.random.Generator) -> "Iterator[MatchesAnywhere]":
        return matches_anywhere(index, drawn, self.context)


def unique_contexts(shard: Shard, context: int) -> NDArray[np.bool_]:
    """Whether the `context` tokens before each offset of the corpus stand nowhere else in it: bool [T + context].

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
        offsets = pointers_at(shard.table, slice(first - before, first + step + after))
        same = np.arange(len(offsets) - 1)  # suffixes that are like the next one so far
        for done in range(0, context, 4):
            four = np.ndarray(size, "<u8", padded, 2 * done, (2,))  # the four tokens from every offset on
            beyond = np.uint64(16 * max(0, done + 4 - context))  # bits of those past the context
            if done == 0:
                keys = four[offsets] << beyond
                same = np.flatnonzero(keys[:-1] == keys[1:])
            else:
                same = same[four[offsets[same]] << beyond == four[offsets[same + 1]] << beyond]
        alone = np.ones(len(offsets), bool)
        alone[same] = False
        alone[same + 1] = False
        inner = slice(before, len(offsets) - after)
        unique[offsets[inner][alone[inner]] + context] = True

    with ThreadPoolExecutor(cores()) as pool:
        list(pool.map(work, range(0, size, step)))
    return unique


@dataclass(frozen=True)
class MatchesAnywhere:
    """Matches of n sequences at any position of any image; the protocol of matches.py.

    The matches of all shards are numbered in the order of the token that follows (of its bytes, as suffixes are
    sorted): the same number gives the same token, whatever the shards are.
    """

    index: Index
    corpus: NDArray[np.uint16]  # of all shards, one after another
    low: Ints  # [shards, n]: ranks in each shard's suffix table
    high: Ints  # [shards, n]
    depth: Ints  # [n]: tokens of context that matched
    copy_from: Ints  # [n]: the offset in `corpus` of the one token that follows, where it was known; else 0

    @property
    def counts(self) -> Ints:
        return np.where(self.copy_from > 0, 1, (self.high - self.low).sum(0))

    @property
    def identity(self) -> Ints:
        return np.concatenate([self.low, self.high, self.depth[None], self.copy_from[None]]).T

    def offsets(self, rows: Ints, picks: Ints) -> Ints:
        """The offsets in `corpus` of the tokens that follow match `picks` [m] of sequence `rows` [m]."""
        offsets = self.copy_from[rows]
        searched = np.flatnonzero(offsets == 0)
        rows = rows[searched]
        low = self.low[:, rows]
        high = self.high[:, rows]
        picks = picks[searched]

        # 1) Where several shards have matches: those of the token that the pick falls on, and its number among them.
        several = np.flatnonzero((high > low).sum(0) > 1)
        if several.size:
            found = self._of_one_token(low[:, several], high[:, several], picks[several], self.depth[rows[several]])
            low[:, several], high[:, several], picks[several] = found

        # 2) These are numbered through the shards: the first whose count reaches beyond the pick holds it.
        ends = np.cumsum(high - low, 0)
        shard = (picks >= ends).sum(0)
        each = np.arange(len(rows))
        rank = high[shard, each] - (ends[shard, each] - picks)
        offsets[searched] = self._next_offsets(shard, rank, self.depth[rows])
        return offsets

    def _of_one_token(self, low: Ints, high: Ints, picks: Ints, depth: Ints) -> tuple[Ints, Ints, Ints]:
        """The matches that go on as match `picks` [m] does, as ranges of ranks [shards, m], and its number in these.

        The bits of the token are found one by one: the matches below the next higher token are counted.
        """
        token = np.zeros(len(picks), np.int64)
        for bit in reversed(range(16)):
            middle = self._first_from(low, high, token + (1 << bit), depth)
            below = (middle - low).sum(0)
            upper = picks >= below
            picks = np.where(upper, picks - below, picks)
            token += upper.astype(np.int64) << bit
            low = np.where(upper, middle, low)
            high = np.where(upper, high, middle)
        return low, high, picks

    def _first_from(self, low: Ints, high: Ints, token: Ints, depth: Ints) -> Ints:
        """The first rank of each range [shards, m] that goes on with `token` [m] or a higher one, by bisection."""
        low = low.copy()
        high = high.copy()
        while (unknown := low < high).any():
            shard, column = np.nonzero(unknown)
            middle = (low[unknown] + high[unknown]) // 2
            # Suffixes are sorted by the bytes of their tokens: the low byte decides first.
            following = self.corpus[self._next_offsets(shard, middle, depth[column])].byteswap()
            reached = following >= token[column]
            high[unknown] = np.where(reached, middle, high[unknown])
            low[unknown] = np.where(reached, low[unknown], middle + 1)
        return low

    def _next_offsets(self, shards: Ints, ranks: Ints, depth: Ints) -> Ints:
        """The offsets in `corpus`, `depth` tokens behind those that the tables of `shards` have at `ranks`: [m]."""
        offsets = np.empty(len(ranks), np.int64)
        start = 0
        for number, shard in enumerate(self.index.shards):
            here = shards == number
            offsets[here] = start + pointers_at(shard.table, ranks[here])
            start += len(shard.tokens) - len(ENDING)
        return offsets + depth

    def next_tokens(self, rows: Ints, picks: Ints) -> NDArray[np.uint16]:
        return self.corpus[self.offsets(rows, picks)]

    def sources(self, rows: Ints, picks: Ints) -> Ints:
        images, within = np.divmod(self.offsets(rows, picks), self.index.tokens_per_image + 1)
        return np.stack([images, within - 1], 1)


def matches_anywhere(index: Index, drawn: NDArray[np.uint16], context: int) -> Iterator[MatchesAnywhere]:
    """Matches of the longest suffix of the last `context` tokens that stands anywhere with a token after it.

    For every position of `drawn` [n, L]; the separator counts as one token, before the first.

    A suffix of the next position's text is at most one token longer than what matched now, and a token that was drawn
    from the matches makes it so unless an image ends there: one search a token, not one for every length. And fewer
    where there was one match: then the next contexts have one match too, as long as they contain what was searched for.
    """
    n, length = drawn.shape
    engine = Engine(index)
    corpus = index.corpus
    copying = FOLLOW_COPIES and context > 0
    pays = copying and len(index.shards) == 1 and PAYS * n * length > len(corpus)
    unique = unique_contexts(index.shards[0], context) if pays else None

    text = np.full((n, length + 1), SEPARATOR, np.uint16)
    nothing = np.zeros((len(index.shards), n), np.int64)
    depth = np.zeros(n, np.int64)
    copy_from = np.zeros(n, np.int64)
    single_until = np.zeros(n, np.int64)  # contexts that end at or before this offset of the corpus have one match
    matches = MatchesAnywhere(index, corpus, nothing, nothing, depth, copy_from)
    for position in range(length):
        if position:
            text[:, position] = drawn[:, position - 1]

        # 1) Sequences that go on copying from where their one match stood.
        if position and copying:
            found = np.flatnonzero((copy_from == 0) & (matches.counts == 1))
            copy_from[found] = matches.offsets(found, np.zeros(len(found), np.int64))
            single_until[found] = copy_from[found] - depth[found] + context
            copied = (copy_from > 0) & (corpus[copy_from] == drawn[:, position - 1])
            copy_from += 1
            copied &= corpus[copy_from] < TERMINATOR
            unsure = np.flatnonzero(copied & (copy_from > single_until))
            if unique is not None:
                copied[unsure] = unique[copy_from[unsure]]
            else:
                # Half of the context stands once as a rule, and vouches for as many tokens to come.
                half = context // 2
                low, high = engine.find(text[unsure, position + 1 - half : position + 1])
                copied[unsure] = (high - low).sum(0) == 1
                single_until[unsure] = copy_from[unsure] - half + context
            copy_from[~copied] = 0

        # 2) The others are searched for, with a token less until something is found.
        low = nothing.copy()
        high = nothing.copy()
        depth = np.minimum(depth + 1, context)
        missing = np.flatnonzero(copy_from == 0)
        while missing.size:
            for wanted in np.unique(depth[missing]):
                rows = missing[depth[missing] == wanted]
                contexts = text[rows, position + 1 - wanted : position + 1]
                low[:, rows], high[:, rows] = engine.find(contexts)
            missing = missing[(high == low).all(0)[missing]]
            depth[missing] -= 1
        matches = MatchesAnywhere(index, corpus, low, high, depth.copy(), copy_from.copy())
        yield matches


def longest_runs(index: Index, sequences: NDArray[np.uint16]) -> Ints:
    """From every token of `sequences` [n, k] on, the tokens that stand in a row in one indexed image: int64 [n, k]."""
    return Engine(index).longest_matches(sequences)
