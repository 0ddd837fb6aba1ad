"""The probability that a sampler gives to sequences: the distributions it draws from, asked instead of drawn."""

import numpy as np
from numpy.typing import NDArray

from imagegram.index.folder import Index
from imagegram.sampling.kernel import kernel_probabilities
from imagegram.sampling.matches import Ints, Matches, truncated
from imagegram.sampling.sampler import matches_at_every_position
from imagegram.sampling.settings import Settings
from imagegram.sampling.smoothed import smoothed_probabilities

MATCHES_AT_ONCE = 1 << 22  # looked at together: bounds the memory


def probabilities(
    index: Index, settings: Settings, tokens: NDArray[np.uint16], own: Ints | None = None
) -> NDArray[np.float64]:
    """p(x_i | x_1 .. x_{i-1}) of every token of `tokens` [n, k]: float64 [n, k], 0 where it cannot be drawn.

    own: int64 [n], where the sequences are rows of the index: each is then predicted from all the others
    (leave-one-out; where nothing else has its context, 0).
    """
    settings.check()
    if settings.method == "kernel":
        return kernel_probabilities(index, tokens, settings, own)
    if settings.method == "smoothed":
        return smoothed_probabilities(index, tokens, settings, own)
    result = np.empty(tokens.shape)
    for position, matches in enumerate(matches_at_every_position(index, settings, tokens, np.random.default_rng(0))):
        result[:, position] = share_of(matches, settings, tokens[:, position], own)
    return result


def share_of(
    matches: Matches, settings: Settings, wanted: NDArray[np.uint16], own: Ints | None = None
) -> NDArray[np.float64]:
    """The probability that a draw from `matches` of n sequences gives the token `wanted` [n]: float64 [n].

    Sequences with equal matches are counted once; with `own` [n] each leaves out the matches in its own image.
    """
    n = len(wanted)
    if own is None:
        _, first, group = np.unique(matches.identity, axis=0, return_index=True, return_inverse=True)
        group = group.ravel()
    else:
        first = np.arange(n)
        group = first
    counts = matches.counts[first]
    ends = np.cumsum(counts)
    result = np.zeros(n)
    start = 0
    while start < len(first):
        # As many groups as fit, at least one.
        before = ends[start] - counts[start]
        stop = max(start + 1, int(np.searchsorted(ends, before + MATCHES_AT_ONCE, "right")))
        part = np.arange(start, stop)
        rows = np.repeat(part, counts[part])  # the group of every match
        picks = np.arange(ends[stop - 1] - before) - (ends[rows] - counts[rows] - before)
        tokens = matches.next_tokens(first[rows], picks).astype(np.int64)
        if own is not None:
            kept = matches.sources(first[rows], picks)[:, 0] != own[rows]
            rows = rows[kept]
            tokens = tokens[kept]
        members = np.flatnonzero((group >= start) & (group < stop))
        result[members] = _shares(rows, tokens, group[members], wanted[members], settings)
        start = stop
    return result


def _shares(
    rows: Ints, tokens: Ints, groups: Ints, wanted: NDArray[np.uint16], settings: Settings
) -> NDArray[np.float64]:
    """Of matches in groups `rows` [m] with next `tokens` [m], the share of each `wanted` [n] in its group [n]."""
    if not len(rows):
        return np.zeros(len(groups))
    keys, counts = np.unique(rows * 65536 + tokens, return_counts=True)
    weights = counts / np.bincount(rows)[keys >> 16]
    if settings.reweighted:
        for group in np.unique(keys >> 16):
            here = np.flatnonzero(keys >> 16 == group)
            weights[here] = truncated(weights[here], settings.temperature, settings.top_k, settings.top_p)
    asked = groups * 65536 + wanted
    found = np.searchsorted(keys, asked).clip(max=len(keys) - 1)
    return np.where(keys[found] == asked, weights[found], 0)
