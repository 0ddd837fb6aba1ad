"""What a sampler yields for every position: its matches.

Of these one is drawn for every sequence. Asking for a probability counts those that go on with the
token asked for.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from imagegram.index.folder import Index

Tokens = NDArray[np.uint16]
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Reweigh = Callable[[NDArray[np.number]], Floats]  # weights of tokens [..., V] -> probabilities

MATCHES_AT_ONCE = 1 << 22  # looked at together: bounds the memory


class Matches(Protocol):
    """The matches of n sequences at one position, numbered from 0 for each of them.

    Before asking the generator for the next ones, the caller must have written `drawn[:,
    position]`, the tokens [n] of the position that was yielded.
    """

    @property
    def counts(self) -> Ints:
        """[n], at least 1 for what the sampler itself drew."""
        ...

    @property
    def identity(self) -> Ints:
        """[n, *]: sequences with equal rows have equal matches."""
        ...

    def next_tokens(self, rows: Ints, picks: Ints) -> tuple[Tokens, Ints]:
        """The token that follows match `picks` [m] of sequence `rows` [m], and its source [m, 2]:
        row of the index and position."""
        ...


@dataclass(frozen=True)
class RangeMatches:
    """Ranges of `order`, images so sorted that those which share a context are neighbours."""

    tokens: Tokens  # of the index
    order: Ints  # images
    position: int
    low: Ints  # [n], where each range starts
    counts: Ints  # [n]

    @property
    def identity(self) -> Ints:
        return np.stack([self.low, self.counts], 1)

    def next_tokens(self, rows: Ints, picks: Ints) -> tuple[Tokens, Ints]:
        images = self.order[self.low[rows] + picks]
        sources = np.stack([images, np.full(len(images), self.position)], 1)
        return self.tokens[images, self.position], sources


@dataclass(frozen=True)
class DrawnTokens:
    """One match a sequence, which the sampler has drawn already."""

    tokens: Tokens  # [n]
    images: Ints  # [n], where they come from
    position: int

    @property
    def counts(self) -> Ints:
        return np.ones(len(self.tokens), np.int64)

    @property
    def identity(self) -> Ints:
        return np.arange(len(self.tokens))[:, None]

    def next_tokens(self, rows: Ints, picks: Ints) -> tuple[Tokens, Ints]:
        sources = np.stack([self.images[rows], np.full(len(rows), self.position)], 1)
        return self.tokens[rows], sources


def matches_of_class(index: Index, label: str, n: int) -> Matches:
    """The first tokens of the images of a class; UserError where it is none, or several."""
    images = np.flatnonzero((index.images[:, [0, 2]] == index.class_of(label)).all(1))
    return RangeMatches(index.tokens, images, 0, np.zeros(n, np.int64), np.full(n, len(images)))


def draw_match(matches: Matches, rng: np.random.Generator, reweigh: Reweigh | None) -> Ints:
    """One match for each sequence [n]: uniform, or by the reweighed chances of the next tokens."""
    if reweigh is None or (matches.counts == 1).all():
        return rng.integers(0, matches.counts)
    # One number for each sequence, however the sequences are grouped.
    wanted = rng.random(len(matches.counts))
    _, first, which = np.unique(matches.identity, axis=0, return_index=True, return_inverse=True)
    picks = np.empty(len(matches.counts), np.int64)
    for r, row in enumerate(first):
        members = np.flatnonzero(which.ravel() == r)
        every = np.arange(matches.counts[row])
        tokens, _ = matches.next_tokens(np.full(len(every), row), every)
        _, token, counts = np.unique(tokens, return_inverse=True, return_counts=True)
        cumulative = np.cumsum((reweigh(counts) / counts)[token])
        picks[members] = np.searchsorted(cumulative, wanted[members] * cumulative[-1], "right")
    return picks


def share_of(
    matches: Matches, wanted: Tokens, reweigh: Reweigh | None, leave_out: Ints | None
) -> Floats:
    """The probability that a draw from `matches` of n sequences gives the token `wanted` [n]:
    float64 [n].

    Matches that several sequences share are looked at once; those in the image `leave_out` [n] of a
    sequence do not count for it.
    """
    _, first, groups = np.unique(matches.identity, axis=0, return_index=True, return_inverse=True)
    counts = matches.counts[first]
    result = np.zeros(len(wanted))
    # As many groups as fit, at least one.
    seams = np.flatnonzero(np.diff(np.cumsum(counts) // MATCHES_AT_ONCE)) + 1
    for part in np.split(np.arange(len(first)), seams):
        members = np.flatnonzero(np.isin(groups.ravel(), part))
        mine = np.searchsorted(part, groups.ravel()[members])
        rows, picks = numbered(counts[part])
        tokens, sources = matches.next_tokens(first[part][rows], picks)
        left_out = np.zeros((0, 2), np.int64)
        if leave_out is not None:
            left_out = _left_out_tokens(rows, sources[:, 0], tokens, mine, leave_out[members])
        result[members] = _shares(rows, tokens, mine, wanted[members], left_out, reweigh)
    return result


def _left_out_tokens(
    rows: Ints, images: Ints, tokens: Tokens, groups: Ints, leave_out: Ints
) -> Ints:
    """Of matches in groups `rows` and `images` [m] with next `tokens` [m], those in the group of a
    sequence of n and in the image that it leaves out: the sequence and the token, int64 [*, 2]."""
    asked = groups << 32 | leave_out
    order = np.argsort(asked)
    number = look_up(asked[order], order + 1, rows << 32 | images)  # 0: no sequence
    return np.stack([number[number > 0] - 1, tokens[number > 0]], 1)


def _shares(
    rows: Ints,
    tokens: Tokens,
    groups: Ints,
    wanted: Tokens,
    left_out: Ints,
    reweigh: Reweigh | None,
) -> Floats:
    """Of matches in groups `rows` [m] with next `tokens` [m], the share of each `wanted` [n] in its
    group [n].

    left_out: [*, 2], the number of a sequence and the token of a match that does not count for it.
    """
    n = len(groups)
    known, counts = np.unique(rows << 16 | tokens, return_counts=True)
    if reweigh is None:
        without, fewer = np.unique(left_out[:, 0] << 16 | left_out[:, 1], return_counts=True)
        hits = look_up(known, counts, groups << 16 | wanted)
        hits = hits - look_up(without, fewer, np.arange(n) << 16 | wanted)
        total = np.bincount(rows, minlength=n)[groups] - np.bincount(left_out[:, 0], minlength=n)
        return hits / np.maximum(1, total)

    result = np.zeros(n)
    cases = np.arange(n) if len(left_out) else groups  # sequences of equal distributions
    for case, one in zip(*np.unique(cases, return_index=True), strict=True):
        low, high = np.searchsorted(known, [groups[one] << 16, groups[one] + 1 << 16])
        kinds = known[low:high] & 65535
        weights = counts[low:high].copy()
        np.subtract.at(weights, np.searchsorted(kinds, left_out[left_out[:, 0] == one, 1]), 1)
        if weights.any():
            members = np.flatnonzero(cases == case)
            result[members] = look_up(kinds, reweigh(weights), wanted[members])
    return result


def truncated(
    weights: NDArray[np.number], temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0
) -> Floats:
    """Weights of tokens [..., V] -> probabilities: weight ** (1 / temperature), of which the
    `top_k` largest are kept, and of these the fewest that reach `top_p` together (Holtzman et al.,
    2020, arXiv:1904.09751). Ties by order."""
    with np.errstate(divide="ignore"):
        logits = np.log(weights) / temperature
    p = np.exp(logits - logits.max(-1, keepdims=True))
    order = np.argsort(-p, axis=-1, kind="stable")
    if top_k:
        np.put_along_axis(p, order[..., top_k:], 0, -1)
    p /= p.sum(-1, keepdims=True)
    if top_p < 1:
        ranked = np.take_along_axis(p, order, -1)
        before = np.cumsum(ranked, -1) - ranked
        np.put_along_axis(p, order, np.where(before < top_p, ranked, 0), -1)
        p /= p.sum(-1, keepdims=True)
    return p


def numbered(counts: Ints) -> tuple[Ints, Ints]:
    """Of each row the numbers from 0 on, `counts` [n] of them: row and number, [counts.sum()] each.

    >>> rows, numbers = numbered(np.array([2, 0, 3]))
    >>> rows.tolist(), numbers.tolist()
    ([0, 0, 2, 2, 2], [0, 1, 0, 1, 2])
    """
    rows = np.repeat(np.arange(len(counts)), counts)
    return rows, np.arange(len(rows)) - (np.cumsum(counts) - counts)[rows]


def look_up(known: Ints, values: NDArray[Any], wanted: NDArray[np.integer]) -> NDArray[Any]:
    """The `values` [m] of `wanted` [n] among ascending `known` [m], 0 for what is not there: [n].

    >>> look_up(np.array([3, 7]), np.array([10, 20]), np.array([7, 5])).tolist()
    [20, 0]
    """
    if not len(known):
        return np.zeros(len(wanted), values.dtype)
    nearest = np.searchsorted(known, wanted).clip(max=len(known) - 1)
    return np.where(known[nearest] == wanted, values[nearest], 0)
