"""Contexts anywhere in the corpus: the plain infini-gram (Liu et al., 2024, arXiv:2401.17377).

The offsets of a context in the corpus come from Fastgram (index/engine.py). A sequence whose
context stands at one offset copies what follows there, until a context of it stands elsewhere as
well. Most of these tokens cost no search: a context that contains a run of tokens which stands once
stands there only. For many sequences, where contexts stand once is worked out for the whole corpus.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from imagegram.index.engine import Engine
from imagegram.index.folder import ENDING, Index
from imagegram.index.table import pointers_at
from imagegram.samplers.base import Sampler
from imagegram.samplers.matches import Ints, Matches, Tokens, numbered
from imagegram.tokens import SEPARATOR, TERMINATOR

FOLLOW_COPIES = True  # False, of tests: every token is searched for
LISTED = 128  # matches that are looked at for one draw from several shards; more are bisected
FEW = 1 << 14  # matches that are looked at in any case
AT_ONCE = 1 << 13  # draws; bounds the memory
RANK_BITS = 40  # of a number that holds a rank of a suffix table
WHOLE = 1 << 23  # contexts hashed and sorted at once, 8 bytes each; of more, a quarter
PARTS = 4  # one for every value of the first two bits
STEP = 1 << 16  # contexts hashed at a time
MULTIPLIER = 0x9E3779B97F4A7C15  # of the hash: 2^64 divided by the golden ratio (Knuth)
PAYS = 30  # tokens that `unique_contexts` looks at while one is copied without it, of one shard
PAYS_MORE = 7  # and with every other shard


@dataclass(frozen=True, kw_only=True)
class Ntd(Sampler):
    """The longest context that occurs anywhere in the training images: the plain infini-gram."""

    name = "ntd"
    how = (
        "The next token is one that follows the same tokens anywhere in the training images: "
        "infini-gram"
    )

    context: int = 2  # tokens at most, of which the separator before the first counts as one

    def matches(self, index: Index, drawn: Tokens, rng: np.random.Generator) -> Iterator[Matches]:
        return matches_anywhere(index, drawn, self.context)


def unique_contexts(corpus: Tokens, context: int) -> NDArray[np.bool_]:
    """Whether the `context` tokens before each offset of the corpus [T] stand nowhere else in it:
    bool [T + 1].

    They do where their hash does. Two that share a hash by chance count as shared, which only costs
    a search.
    """
    unique = np.zeros(len(corpus) + 1, bool)
    unique[context:] = True
    size = len(corpus) + 1 - context
    # the bits that hold the offset, behind those of the hash
    offset = np.uint64((1 << max(size, 0).bit_length()) - 1)
    parts = PARTS if len(corpus) > WHOLE else 1
    for part in range(parts):  # of the hashes, which bounds the memory
        found = bytearray()  # it grows without being copied
        for first in range(0, size, STEP):
            hashes = _hashes(corpus[first : first + STEP + context - 1], context)
            keys = hashes & ~offset | np.arange(first, first + len(hashes), dtype=np.uint64)
            found += keys[(hashes >> np.uint64(62)) % np.uint64(parts) == part].tobytes()
        every = np.frombuffer(found, np.uint64)
        every.sort()
        for first in range(0, len(every), STEP):
            keys = every[first : first + STEP + 1]  # with the pair across the end
            same = np.flatnonzero(keys[1:] ^ keys[:-1] <= offset)
            for pair in (same, same + 1):
                unique[(keys[pair] & offset).astype(np.int64) + context] = False
    return unique


def _unique_of(index: Index, context: int, tokens: int) -> NDArray[np.bool_] | None:
    """The same of an index, kept for its next draws; None where it does not pay for `tokens`."""
    name = f"unique contexts of {context}"
    if name not in index.kept:
        if (PAYS + PAYS_MORE * (len(index.shards) - 1)) * tokens <= len(index.corpus):
            return None
        index.kept[name] = unique_contexts(index.corpus, context)
    return index.kept[name]


def _hashes(tokens: Tokens, context: int) -> NDArray[np.uint64]:
    """Of every `context` tokens in a row of [n]: uint64 [n + 1 - context], polynomials."""
    power = partial(pow, MULTIPLIER, mod=1 << 64)
    run = tokens.astype(np.uint64) + np.uint64(1)  # of `width` tokens from each on, by doubling
    width = 1
    hashes = np.zeros(len(tokens) + 1, np.uint64)  # of `done` tokens
    done = 0
    while True:
        if context & width:
            hashes = hashes[: len(run) - done] + run[done:] * power(done)
            done += width
        if done == context:
            return hashes * power(1)
        run = run[:-width] + run[width:] * power(width)
        width *= 2


@dataclass(frozen=True)
class MatchesAnywhere:
    """Matches of n sequences at any position of any image.

    The matches of all shards are numbered in the order of the token that follows (of its bytes, as
    suffixes are sorted): the same number gives the same token, whatever the shards are.
    """

    index: Index
    low: Ints  # [shards, n]: ranks in each shard's suffix table
    high: Ints  # [shards, n]
    depth: Ints  # [n]: tokens of context that matched
    copy_from: Ints  # [n]: the offset of the one token that follows, where it was known; else 0

    @property
    def counts(self) -> Ints:
        return np.where(self.copy_from > 0, 1, (self.high - self.low).sum(0))

    @property
    def identity(self) -> Ints:
        return np.concatenate([self.low, self.high, self.depth[None], self.copy_from[None]]).T

    def offsets(self, rows: Ints, picks: Ints) -> Ints:
        """Where in the corpus the tokens are that follow match `picks` of sequence `rows`: [m]."""
        offsets = self.copy_from[rows]
        searched = np.flatnonzero(offsets == 0)
        if searched.size:
            offsets[searched] = self._searched(rows[searched], picks[searched])
        return offsets

    def _searched(self, rows: Ints, picks: Ints) -> Ints:
        """The same of sequences that were searched for."""
        low = self.low[:, rows]
        high = self.high[:, rows]
        depth = self.depth[rows]
        picks = picks.copy()

        # 1) Where several shards have matches: those of the token that the pick falls on.
        several = np.flatnonzero((high > low).sum(0) > 1)
        known = np.full(len(rows), -1)
        for first in range(0, len(several), AT_ONCE):
            some = several[first : first + AT_ONCE]
            known[some] = self._listed(low[:, some], high[:, some], picks[some], depth[some])
        rest = several[known[several] < 0]
        if rest.size:
            low[:, rest], high[:, rest], picks[rest] = self._of_one_token(
                low[:, rest], high[:, rest], picks[rest], depth[rest]
            )

        # 2) These are numbered through the shards: the first that reaches beyond the pick holds it.
        ends = np.cumsum(high - low, 0)
        shard = (picks >= ends).sum(0)
        each = np.arange(len(rows))
        rank = high[shard, each] - (ends[shard, each] - picks)
        return np.where(known < 0, self._next_offsets(shard, rank, depth), known)

    def _listed(self, low: Ints, high: Ints, picks: Ints, depth: Ints) -> Ints:
        """What follows match `picks` [m] of the ranges [shards, m], as an offset, where all matches
        are few enough, for the picks that share them, to be looked at; -1 elsewhere."""
        shards = len(low)
        # Ranges of one depth that start at one rank of one shard are those of one context.
        in_shard = (high > low).argmax(0)
        key = (depth * shards + in_shard) << RANK_BITS | low[in_shard, np.arange(len(picks))]
        _, of_context, which, sharing = np.unique(
            key, return_index=True, return_inverse=True, return_counts=True
        )
        low, high, depth = low[:, of_context].T, high[:, of_context].T, depth[of_context]
        each = high - low  # matches, [contexts, shards]
        each[each.sum(1) > np.maximum(LISTED * sharing, FEW // max(1, len(each)))] = 0
        first = np.cumsum(each.sum(1)) - each.sum(1)

        # In the order of shards and ranks, then of the tokens that follow: a stable sort.
        cell, number = numbered(each.ravel())
        context, shard = np.divmod(cell, shards)
        offsets = self._next_offsets(shard, low[context, shard] + number, depth[context])
        order = np.argsort(context << 16 | self.index.corpus[offsets].byteswap(), kind="stable")
        listed = (each.sum(1) > 0)[which]
        result = np.full(len(picks), -1)
        result[listed] = offsets[order[first[which[listed]] + picks[listed]]]
        return result

    def _of_one_token(
        self, low: Ints, high: Ints, picks: Ints, depth: Ints
    ) -> tuple[Ints, Ints, Ints]:
        """The matches that go on as match `picks` [m] does, as ranges of ranks [shards, m], and its
        number in these. The bits of the token are found one by one, by the matches below it."""
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
        """By bisection the first rank of each range [shards, m] that goes on with `token` [m] or a
        higher one."""
        low = low.copy()
        high = high.copy()
        while (unknown := low < high).any():
            shard, column = np.nonzero(unknown)
            middle = (low[unknown] + high[unknown]) // 2
            # Suffixes are sorted by the bytes of their tokens: the low byte decides first.
            offsets = self._next_offsets(shard, middle, depth[column])
            reached = self.index.corpus[offsets].byteswap() >= token[column]
            high[unknown] = np.where(reached, middle, high[unknown])
            low[unknown] = np.where(reached, low[unknown], middle + 1)
        return low

    def _next_offsets(self, shards: Ints, ranks: Ints, depth: Ints) -> Ints:
        """The offsets `depth` tokens behind those in the tables of `shards` at `ranks`: [m]."""
        offsets = depth.copy()
        start = 0
        for number, shard in enumerate(self.index.shards):
            here = np.flatnonzero(shards == number)
            if here.size:
                offsets[here] += start + pointers_at(shard.table, ranks[here])
            start += len(shard.tokens) - len(ENDING)
        return offsets

    def next_tokens(self, rows: Ints, picks: Ints) -> tuple[Tokens, Ints]:
        offsets = self.offsets(rows, picks)
        images, within = np.divmod(offsets, self.index.tokens_per_image + 1)
        return self.index.corpus[offsets], np.stack([images, within - 1], 1)


def matches_anywhere(index: Index, drawn: Tokens, context: int) -> Iterator[MatchesAnywhere]:
    """Matches of the longest suffix of the last `context` tokens that stands anywhere with a token
    after it.

    For every position of `drawn` [n, L]; the separator counts as one token, before the first. What
    matches next is at most one token longer than what matched now, and a token that was drawn from
    the matches makes it so unless an image ends there: one search a token, not one a length.
    """
    n, length = drawn.shape
    engine = Engine(index)
    corpus = index.corpus
    copying = FOLLOW_COPIES and context > 0
    unique = _unique_of(index, context, n * length) if copying else None

    text = np.full((n, length + 1), SEPARATOR, np.uint16)
    depth = np.zeros(n, np.int64)
    copy_from = np.zeros(n, np.int64)
    # contexts that end at or before this offset of the corpus have one match
    single_until = np.zeros(n, np.int64)
    for position in range(length):
        depth = np.minimum(depth + 1, context)
        low, high = _search(engine, text[:, : position + 1], depth, np.flatnonzero(copy_from == 0))
        matches = MatchesAnywhere(index, low, high, depth, copy_from.copy())
        yield matches
        text[:, position + 1] = drawn[:, position]
        if not copying:
            continue

        # Sequences that go on copying from where their one match stood.
        found = np.flatnonzero((copy_from == 0) & (matches.counts == 1))
        copy_from[found] = matches.offsets(found, np.zeros(len(found), np.int64))
        single_until[found] = copy_from[found] - depth[found] + context
        copied = (copy_from > 0) & (corpus[copy_from] == drawn[:, position])
        copy_from += 1
        copied &= corpus[copy_from] < TERMINATOR
        unsure = np.flatnonzero(copied & (copy_from > single_until))
        if unique is not None:
            copied[unsure] = unique[copy_from[unsure]]
        else:
            # Half of the context stands once as a rule, and vouches for as many tokens to come.
            half = context // 2
            low, high = engine.find(text[unsure, position + 2 - half : position + 2])
            copied[unsure] = (high - low).sum(0) == 1
            single_until[unsure] = copy_from[unsure] - half + context
        copy_from[~copied] = 0


def _search(engine: Engine, text: Tokens, depth: Ints, rows: Ints) -> tuple[Ints, Ints]:
    """Where the last `depth` [n] tokens of `text` [n, k] stand, as ranges of ranks [shards, n]; of
    some `rows` alone, whose depth becomes less by one until something is found."""
    low, high = np.zeros((2, len(engine.index.shards), len(text)), np.int64)
    while rows.size:
        for wanted in np.unique(depth[rows]):
            some = rows[depth[rows] == wanted]
            low[:, some], high[:, some] = engine.find(text[some, text.shape[1] - wanted :])
        rows = rows[(high == low).all(0)[rows]]
        depth[rows] -= 1
    return low, high
