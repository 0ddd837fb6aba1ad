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
- `smoothed`: the same, interpolated over all lengths of context by absolute discounting (smoothing.py), which also
  gives held-out bits per token.
- `soft`: the `neighbours` images whose prefix is nearest in code space, by the squared distance of FSQ codes summed
  over the tokens so far: non-parametric texture synthesis (Efros & Leung, 1999) on tokens. Never short of matches,
  and copying stops at every token where a near image goes another way. Ties are broken at random. The token at
  position i counts (i + 1) ** -emphasis: in a tokenizer with nested dropout the first tokens hold most of the image.

Temperature, top-k and top-p act on the final distribution, after the smoothing. `label` draws the first token from
the images of one class.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from imagegram.cli import UserError
from imagegram.index.folder import Index
from imagegram.sampling.aligned import Ints, discounts, ladder
from imagegram.sampling.ntd import blind
from imagegram.sampling.smoothed import distribution, draw
from imagegram.sampling.soft import FOLLOWED, MAX_PAIRS, PrefixDistances

METHODS = ("ntd", "aligned", "smoothed", "soft")


@dataclass(frozen=True)
class Settings:
    """How to sample. A script's --help lists these fields with their comments."""

    method: str = "aligned"  # one of METHODS
    context: int = 2  # ntd, aligned, smoothed: tokens of context at most; 0: each position on its own
    min_images: int = 2  # aligned: images that must share a context, else it is shortened; 1 copies
    anchor: int = 0  # aligned: first tokens that must match besides
    neighbours: int = 20  # soft: images to choose among; 1 copies, all of them give position-unigrams
    emphasis: float = 0.0  # soft: above 0 the first tokens count most, below 0 the latest; 0: all count alike
    temperature: float = 1.0  # below 1 sharpens the distribution, above 1 flattens it
    top_k: int = 0  # most likely tokens kept; 0: all
    top_p: float = 1.0  # the fewest tokens kept that have this probability together
    label: int = -1  # class of the image that gives the first token; -1: any

    def describe(self) -> str:
        """The values that matter, as text."""
        names = {"ntd": ["context"], "aligned": ["context", "min_images", "anchor"]}
        names |= {"smoothed": ["context"], "soft": ["neighbours"]}
        shown = names[self.method] + [
            name
            for name, usual in (("emphasis", 0), ("temperature", 1), ("top_k", 0), ("top_p", 1), ("label", -1))
            if getattr(self, name) != usual
        ]
        return f"{self.method}: {', '.join(f'{name} {getattr(self, name)}' for name in shown)}"

    @property
    def reweighted(self) -> bool:
        """Whether the distribution is not to be drawn from as it is."""
        return self.temperature != 1 or self.top_k > 0 or self.top_p < 1

    def check(self) -> None:
        """UserError where a value makes no sense."""
        if self.method not in METHODS:
            raise UserError(f"unknown method {self.method!r}: one of {', '.join(METHODS)}")
        if min(self.min_images, self.neighbours, self.temperature) <= 0:
            raise UserError("min_images, neighbours and temperature must be positive")
        if min(self.context, self.anchor, self.top_k) < 0 or not 0 < self.top_p <= 1:
            raise UserError("context, anchor and top_k must not be negative, top_p lies between 0 and 1")
        if self.anchor and self.method != "aligned":
            raise UserError(f"anchor belongs to the method aligned, not to {self.method}: set it to 0")


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
    # The soft sampler holds a distance for every pair of a sequence and an image, and more for those that it follows.
    step = max(1, MAX_PAIRS // max(index.num_images, 16 * FOLLOWED)) if settings.method == "soft" else n
    for first in range(0, n, step):
        part = slice(first, first + step)
        rows = np.arange(len(tokens[part]))
        for position, matches in enumerate(_matches(index, settings, tokens[part], rng)):
            if position < given:
                continue
            if position == 0 and settings.label >= 0:
                matches = _of_class(index, settings.label, len(rows))
            picks = _draw(matches, settings, rng)
            sources[part, position] = matches.sources(rows, picks)
            tokens[part, position] = matches.next_tokens(rows, picks)
    return Samples(tokens, sources)


def _matches(
    index: Index, settings: Settings, drawn: NDArray[np.uint16], rng: np.random.Generator
) -> Iterator["Matches"]:
    """The matches for one position after another, while the caller fills `drawn` [n, L]."""
    if settings.method == "ntd":
        return blind(index, drawn, settings.context)
    if settings.method == "aligned":
        return _aligned(index, settings, drawn)
    if settings.method == "smoothed":
        return _smoothed(index, settings, drawn, rng)
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
    """One match for each sequence: uniform, or by the reweighted distribution of the tokens that follow."""
    if not settings.reweighted or (matches.counts == 1).all():
        return rng.integers(0, matches.counts)
    _, first, which = np.unique(matches.identity, axis=0, return_index=True, return_inverse=True)
    picks = np.empty(len(matches.counts), np.int64)
    for r, row in enumerate(first):
        members = np.flatnonzero(which.ravel() == r)
        everyone = np.arange(matches.counts[row])
        tokens = matches.next_tokens(np.full(len(everyone), row), everyone)
        _, token, counts = np.unique(tokens, return_inverse=True, return_counts=True)
        weights = truncated(counts, settings.temperature, settings.top_k, settings.top_p)
        picks[members] = rng.choice(len(everyone), len(members), p=(weights / counts)[token])
    return picks


def truncated(
    weights: NDArray[np.number], temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0
) -> NDArray[np.float64]:
    """Weights of tokens [V] -> probabilities: weight ** (1 / temperature), of which the `top_k` largest are kept, and
    of these the fewest that reach `top_p` together (Holtzman et al., 2020, arXiv:1904.09751). Ties by order."""
    with np.errstate(divide="ignore"):
        logits = np.log(weights) / temperature
    p = np.exp(logits - logits.max())
    order = np.argsort(-p, kind="stable")
    if 0 < top_k < len(p):
        p[order[top_k:]] = 0
    p /= p.sum()
    if top_p < 1:
        before = np.cumsum(p[order]) - p[order]
        p[order[before >= top_p]] = 0
        p /= p.sum()
    return p


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


def _aligned(index: Index, settings: Settings, drawn: NDArray[np.uint16]) -> Iterator[Matches]:
    """Matches at the same position, of the longest context that enough images share."""
    rows = np.arange(len(drawn))
    for rungs in ladder(index.tokens, drawn, settings.context, settings.anchor, settings.min_images):
        counts = rungs.high - rungs.low
        depth = (counts[1:] > 0).sum(0)
        yield _AlignedMatches(index.tokens, rungs.order, rungs.position, rungs.low[depth, rows], counts[depth, rows])


def _of_class(index: Index, label: int, n: int) -> Matches:
    """The first tokens of the images of a class."""
    images = np.flatnonzero(index.labels == label)
    if not len(images):
        raise UserError(f"{index.path} holds no image of class {label}: its classes are {np.unique(index.labels)}")
    return _AlignedMatches(index.tokens, images, 0, np.zeros(n, np.int64), np.full(n, len(images)))


def _smoothed(
    index: Index, settings: Settings, drawn: NDArray[np.uint16], rng: np.random.Generator
) -> Iterator[Matches]:
    """One match each, drawn from the smoothed distribution, reweighted where that is asked for."""
    step = max(1, MAX_PAIRS // index.vocab_size)
    for rungs in ladder(index.tokens, drawn, settings.context):
        if not settings.reweighted:
            yield _ImageMatches(index.tokens, draw(index, rungs, rng)[:, None], rungs.position)
            continue
        column, taken = index.tokens[rungs.order, rungs.position], discounts(index.tokens, rungs)
        images = np.empty((len(drawn), 1), np.int64)
        for first in range(0, len(drawn), step):
            rows = np.arange(first, min(first + step, len(drawn)))
            for row, p in zip(rows, distribution(index, rungs, taken, rows), strict=True):
                token = rng.choice(len(p), p=truncated(p, settings.temperature, settings.top_k, settings.top_p))
                for low, high in zip(rungs.low[::-1, row], rungs.high[::-1, row], strict=True):
                    if len(found := np.flatnonzero(column[low:high] == token)):
                        images[row] = rungs.order[low + rng.choice(found)]
                        break
        yield _ImageMatches(index.tokens, images, rungs.position)


@dataclass(frozen=True)
class _ImageMatches:
    tokens: NDArray[np.uint16]  # of the index
    images: Ints  # [n, k]
    position: int
    everyone: bool = False  # all images, the same for every sequence

    @property
    def counts(self) -> Ints:
        return np.full(len(self.images), self.images.shape[1])

    @property
    def identity(self) -> Ints:
        return self.images[:, :1] * 0 if self.everyone else self.images

    def next_tokens(self, rows: Ints, picks: Ints) -> NDArray[np.uint16]:
        return self.tokens[self.images[rows, picks], self.position]

    def sources(self, rows: Ints, picks: Ints) -> Ints:
        return np.stack([self.images[rows, picks], np.full(len(rows), self.position)], 1)


def _soft(index: Index, settings: Settings, drawn: NDArray[np.uint16], rng: np.random.Generator) -> Iterator[Matches]:
    """Matches whose prefix is near in code space; the caller fills `drawn` [n, L] meanwhile."""
    if not index.levels:
        raise UserError(f"the codec {index.codec!r} has no FSQ levels: the soft sampler needs their codes")
    (n, length), everyone = drawn.shape, np.arange(index.num_images)
    distances = PrefixDistances(index.tokens, index.levels, index.vocab_size, n, rng)
    for position in range(length):
        if position:
            distances.add(position - 1, drawn[:, position - 1], position**-settings.emphasis)
        if position == 0 or settings.neighbours >= index.num_images:
            yield _ImageMatches(index.tokens, np.broadcast_to(everyone, (n, len(everyone))), position, everyone=True)
        else:
            yield _ImageMatches(index.tokens, distances.nearest(settings.neighbours), position)
