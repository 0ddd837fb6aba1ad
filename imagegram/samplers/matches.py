"""What a sampler hands to the loop over positions: its matches, of which one is drawn for every sequence."""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from imagegram.samplers.settings import Settings

Ints = NDArray[np.int64]


class Matches(Protocol):
    """The matches of n sequences at one position, numbered from 0 for each of them.

    A method is a generator that yields its matches once per position. Before asking for the next, the caller must have
    written `drawn[:, position]`, the tokens [n] of the position that was yielded.
    """

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


def draw_match(matches: Matches, settings: Settings, rng: np.random.Generator) -> Ints:
    """One match for each sequence: uniform, or by the reweighted distribution of the tokens that follow."""
    if not settings.reweighted or (matches.counts == 1).all():
        return rng.integers(0, matches.counts)
    # One number for each sequence, however the sequences are grouped.
    wanted = rng.random(len(matches.counts))
    _, first, which = np.unique(matches.identity, axis=0, return_index=True, return_inverse=True)
    picks = np.empty(len(matches.counts), np.int64)
    for r, row in enumerate(first):
        members = np.flatnonzero(which.ravel() == r)
        everyone = np.arange(matches.counts[row])
        tokens = matches.next_tokens(np.full(len(everyone), row), everyone)
        _, token, counts = np.unique(tokens, return_inverse=True, return_counts=True)
        weights = truncated(counts, settings.temperature, settings.top_k, settings.top_p)
        cumulative = np.cumsum((weights / counts)[token])
        picks[members] = np.searchsorted(cumulative, wanted[members] * cumulative[-1], "right")
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


def look_up(known: Ints, values: NDArray[Any], wanted: NDArray[np.integer]) -> NDArray[Any]:
    """The `values` [m] of `wanted` [n] among ascending `known` [m], 0 for what is not there: [n]."""
    if not len(known):
        return np.zeros(len(wanted), values.dtype)
    places = np.searchsorted(known, wanted).clip(max=len(known) - 1)
    return np.where(known[places] == wanted, values[places], 0)


@dataclass(frozen=True)
class ImageMatches:
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
