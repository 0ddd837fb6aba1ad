"""Samplers: the next token of an image from what followed its tokens so far in the index.

Every sampler turns the tokens so far into a set of matches, places in the corpus where the same context stands, and
draws one: its next token is emitted, and its image and position are the token's source. A match drawn uniformly
draws the token from the exact next-token distribution of the context, however many matches there are.

- `ntd`: position-blind. The longest suffix of the last `context` tokens (the separator counts as one, before the
  first) that occurs anywhere in the corpus with a token after it: infini-gram (Liu et al., 2024, arXiv:2401.17377),
  the next-token distribution that Fastgram's `ntd()` answers.
- `aligned`: the same tokens at the same positions. Image tokens are ordered: the same id at another position means
  something else. The longest context of at most `context` tokens that `min_images` images share; the first `anchor`
  tokens must match as well, however short the context.
- `smoothed`: the same with interpolated Witten-Bell smoothing (1991, doi:10.1109/18.87000): a context that n images
  share, with t different tokens after it, is left for the next shorter one with probability t / (n + t). Its bits
  per token are measured in smoothing.py.
- `soft`: the `neighbours` images whose prefix is nearest in code space, by the squared distance of FSQ codes summed
  over the tokens so far: non-parametric texture synthesis (Efros & Leung, 1999) on tokens. Never short of matches,
  and copying stops at every token where a near image goes another way. Ties are broken at random.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from imagegram.common import UserError
from imagegram.contexts import Ints, bound, ladder, narrow, tally
from imagegram.index import ENDING, Index, Shard
from imagegram.shards import SEPARATOR, TERMINATOR
from imagegram.suffix_array import pointers_at

METHODS = ("ntd", "aligned", "smoothed", "soft")
MAX_PAIRS = 1 << 26  # distances held at a time by the soft sampler, 256 MB
END_OF_IMAGE = int(np.uint16(TERMINATOR).byteswap())  # in byte order, tokens are below and the markers are not


@dataclass(frozen=True)
class Settings:
    """How to sample."""

    method: str = "aligned"  # one of METHODS
    context: int = 2  # ntd, aligned, smoothed: tokens of context at most
    min_images: int = 2  # aligned: images that must share a context, else it is shortened
    anchor: int = 0  # aligned: first tokens that must match besides
    neighbours: int = 20  # soft: images to choose among
    temperature: float = 1.0  # below 1 sharpens the counts, above 1 flattens them
    top_k: int = 0  # most likely tokens kept; 0: all

    def describe(self) -> str:
        """The values that matter, as text."""
        names = {"ntd": ["context"], "aligned": ["context", "min_images", "anchor"]}
        names |= {"smoothed": ["context"], "soft": ["neighbours"]}
        shown = [*names[self.method], *["temperature"] * (self.temperature != 1), *["top_k"] * (self.top_k > 0)]
        return f"{self.method}: {', '.join(f'{name} {getattr(self, name)}' for name in shown)}"

    def check(self) -> None:
        """UserError where a value makes no sense."""
        if self.method not in METHODS:
            raise UserError(f"unknown method {self.method!r}: one of {', '.join(METHODS)}")
        if min(self.context, self.min_images, self.neighbours, self.temperature) <= 0:
            raise UserError("context, min_images, neighbours and temperature must be positive")
        if min(self.anchor, self.top_k) < 0:
            raise UserError("anchor and top_k must not be negative")
        if self.method == "smoothed" and (self.anchor or self.top_k or self.temperature != 1):
            raise UserError("smoothed takes neither anchor, temperature nor top_k: they would act before the smoothing")


@dataclass(frozen=True)
class Samples:
    """tokens: uint16 [n, k]; sources: int64 [n, k, 2], the row of `Index.tokens` and the position copied from."""

    tokens: NDArray[np.uint16]
    sources: Ints


def sample(
    index: Index,
    settings: Settings,
    n: int,
    rng: np.random.Generator,
    length: int = 0,
    prefix: NDArray[np.uint16] | None = None,
) -> Samples:
    """Draw `n` sequences of `length` tokens (0: `index.tokens_per_image`).

    `prefix` [n, p] gives their first tokens; the source of these is (-1, -1).
    """
    settings.check()
    length = length or index.tokens_per_image
    given = 0 if prefix is None else prefix.shape[1]
    if not given <= length <= index.tokens_per_image:
        raise UserError(f"{length} tokens after {given}: an image of {index.path} has {index.tokens_per_image}")
    if given and settings.anchor:
        raise UserError("an anchor may have no match after a given prefix: set anchor to 0")
    tokens = np.zeros((n, length), np.uint16)
    sources = np.full((n, length, 2), -1, np.int64)
    if prefix is not None:
        tokens[:, :given] = prefix
    # The soft sampler holds a distance for every pair of a sequence and an image.
    step = max(1, MAX_PAIRS // index.num_images) if settings.method == "soft" else n
    for first in range(0, n, step):
        part = slice(first, first + step)
        rows = np.arange(len(tokens[part]))
        for position, matches in enumerate(_matches(index, settings, tokens[part], rng)):
            if position < given:
                continue
            picks = _draw(matches, settings, rng)
            sources[part, position] = matches.sources(rows, picks)
            tokens[part, position] = matches.next_tokens(rows, picks)
    return Samples(tokens, sources)


def _matches(
    index: Index, settings: Settings, drawn: NDArray[np.uint16], rng: np.random.Generator
) -> Iterator["Matches"]:
    """The matches for one position after another, while the caller fills `drawn` [n, L]."""
    if settings.method == "ntd":
        return _blind(index, settings, drawn)
    if settings.method in ("aligned", "smoothed"):
        return _aligned(index, settings, drawn, rng)
    return _soft(index, settings, drawn, rng)


class Matches(Protocol):
    """The matches of n sequences, numbered from 0 for each of them."""

    @property
    def counts(self) -> Ints:
        """[n], at least 1."""
        ...

    @property
    def identity(self) -> Ints:
        """[n, *]: sequences with equal rows have equal matches."""
        ...

    def next_tokens(self, rows: Ints, picks: Ints) -> NDArray[np.uint16]:
        """The token that follows match `picks` [m] of sequence `rows` [m]."""
        ...

    def sources(self, rows: Ints, picks: Ints) -> Ints:
        """Row of the index and position [m, 2] of that token."""
        ...


def _draw(matches: Matches, settings: Settings, rng: np.random.Generator) -> Ints:
    """One match for each sequence: uniform, or reweighted by temperature and top-k of the tokens that follow."""
    if settings.temperature == 1 and not settings.top_k:
        return rng.integers(0, matches.counts)
    _, first, which = np.unique(matches.identity, axis=0, return_index=True, return_inverse=True)
    picks = np.empty(len(matches.counts), np.int64)
    for r, row in enumerate(first):
        members = np.flatnonzero(which.ravel() == r)
        everyone = np.arange(matches.counts[row])
        tokens = matches.next_tokens(np.full(len(everyone), row), everyone)
        _, token, counts = np.unique(tokens, return_inverse=True, return_counts=True)
        weights = truncated(counts, settings.temperature, settings.top_k)
        picks[members] = rng.choice(len(everyone), len(members), p=(weights / counts)[token])
    return picks


def truncated(counts: Ints, temperature: float = 1.0, top_k: int = 0) -> NDArray[np.float64]:
    """Counts of tokens -> probabilities: count ** (1 / temperature), the `top_k` largest kept (ties by order)."""
    logits = np.log(counts) / temperature
    if 0 < top_k < len(counts):
        logits[np.argsort(-logits, kind="stable")[top_k:]] = -np.inf
    weights = np.exp(logits - logits.max())
    return weights / weights.sum()


@dataclass(frozen=True)
class _AlignedMatches:
    tokens: NDArray[np.uint16]  # of the index
    order: Ints
    position: int
    low: Ints
    counts: Ints

    @property
    def identity(self) -> Ints:
        return np.stack([self.low, self.counts], 1)

    def next_tokens(self, rows: Ints, picks: Ints) -> NDArray[np.uint16]:
        return self.tokens[self.order[self.low[rows] + picks], self.position]

    def sources(self, rows: Ints, picks: Ints) -> Ints:
        images = self.order[self.low[rows] + picks]
        return np.stack([images, np.full(len(images), self.position)], 1)


def _aligned(
    index: Index, settings: Settings, drawn: NDArray[np.uint16], rng: np.random.Generator
) -> Iterator[Matches]:
    """Matches at the same position: of the longest context, or of one drawn by Witten and Bell's weights."""
    trained, rows = index.tokens, np.arange(len(drawn))
    smoothed = settings.method == "smoothed"
    for rungs in ladder(trained, drawn, settings.context, settings.anchor, 1 if smoothed else settings.min_images):
        counts = rungs.high - rungs.low
        depth = (counts[1:] > 0).sum(0)
        if smoothed:
            column = trained[rungs.order, rungs.position]
            for d in range(len(counts) - 1, 0, -1):
                distinct, _ = tally(column, rungs.low[d], rungs.high[d])
                shorter = rng.random(len(rows)) * (counts[d] + distinct) >= counts[d]
                depth[(depth == d) & shorter] = d - 1
        yield _AlignedMatches(trained, rungs.order, rungs.position, rungs.low[depth, rows], counts[depth, rows])


@dataclass(frozen=True)
class _SoftMatches:
    tokens: NDArray[np.uint16]  # of the index
    images: Ints  # [n, k]
    position: int

    @property
    def counts(self) -> Ints:
        return np.full(len(self.images), self.images.shape[1])

    @property
    def identity(self) -> Ints:
        return self.images if self.position else np.zeros((len(self.images), 1), np.int64)

    def next_tokens(self, rows: Ints, picks: Ints) -> NDArray[np.uint16]:
        return self.tokens[self.images[rows, picks], self.position]

    def sources(self, rows: Ints, picks: Ints) -> Ints:
        return np.stack([self.images[rows, picks], np.full(len(rows), self.position)], 1)


def _soft(index: Index, settings: Settings, drawn: NDArray[np.uint16], rng: np.random.Generator) -> Iterator[Matches]:
    """Matches whose prefix is near in code space; the caller fills `drawn` [n, L] meanwhile."""
    if not index.levels:
        raise UserError(f"the codec {index.codec!r} has no FSQ levels: the soft sampler needs their codes")
    trained = index.tokens
    codes = fsq_codes(np.arange(index.vocab_size), index.levels)
    (n, length), k = drawn.shape, min(settings.neighbours, len(trained))
    # Smaller than any difference between two codes: decides between equal prefixes, and nothing else.
    distance = rng.random((n, len(trained)), np.float32) * np.float32(1e-3)
    for position in range(length):
        if position == 0:
            nearest = np.broadcast_to(np.arange(len(trained)), (n, len(trained)))
        else:
            images, mine = codes[trained[:, position - 1]], codes[drawn[:, position - 1]]
            for d in range(codes.shape[1]):
                distance += np.square(images[None, :, d] - mine[:, None, d])
            nearest = np.argpartition(distance, k - 1, axis=1)[:, :k] if k < len(trained) else nearest
        yield _SoftMatches(trained, nearest, position)


def fsq_codes(tokens: NDArray[np.integer], levels: tuple[int, ...]) -> NDArray[np.float32]:
    """Token ids [...] -> FSQ codes [..., D] in [-1, 1]: mixed-radix digits, the first dimension fastest."""
    basis = np.cumprod([1, *levels[:-1]])
    digits = np.asarray(tokens)[..., None] // basis % levels
    return ((digits - np.array(levels) // 2) / (np.array(levels) // 2)).astype(np.float32)


@dataclass(frozen=True)
class _BlindMatches:
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


def _blind(index: Index, settings: Settings, drawn: NDArray[np.uint16]) -> Iterator[Matches]:
    """Matches at any position, for one position after another; the caller fills `drawn` [n, L] meanwhile."""
    n, length = drawn.shape
    text = np.full((n, length + 1), SEPARATOR, np.uint16)
    for position in range(length):
        text[:, position] = drawn[:, position - 1] if position else SEPARATOR
        low, high = np.zeros((2, len(index.shards), n), np.int64)
        depth = np.zeros(n, np.int64)
        missing = np.arange(n)
        for wanted in range(min(settings.context, position + 1), -1, -1):
            contexts = text[missing, position + 1 - wanted : position + 1]
            for number, shard in enumerate(index.shards):
                low[number, missing], high[number, missing] = _find(shard, contexts)
            depth[missing] = wanted
            missing = missing[(high == low).all(0)[missing]]
            if not missing.size:
                break
        yield _BlindMatches(index, low, high, depth)


def _find(shard: Shard, contexts: NDArray[np.uint16]) -> tuple[Ints, Ints]:
    """Ranges of the suffix table that start with each of `contexts` [n, c] and go on with a token of the image."""
    n, depth = contexts.shape
    low, high = np.zeros(n, np.int64), np.full(n, len(shard.tokens))
    size, swapped = len(shard.tokens), contexts.byteswap().astype(np.int64)  # the table's order is that of the bytes
    for offset in range(depth + 1):

        def key(ranks: Ints, offset: int = offset) -> Ints:
            places = pointers_at(shard.table, ranks) + offset
            inside = places < size
            keys = shard.tokens[np.where(inside, places, 0)].byteswap().astype(np.int64)
            return np.where(inside, keys, -1)  # the end of the corpus comes before every token

        if offset < depth:
            low, high = narrow(key, swapped[:, offset], low, high)
        else:
            low = bound(key, np.zeros(n, np.int64), low, high, False)
            high = bound(key, np.full(n, END_OF_IMAGE), low, high, False)
    return low, high
