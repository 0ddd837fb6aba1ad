"""The probability that a sampler gives to sequences: the distributions it draws from, asked instead of drawn."""

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from imagegram.index.folder import Index
from imagegram.samplers.kernel.sampler import kernel_probabilities
from imagegram.samplers.matches import Ints, Matches, look_up, truncated
from imagegram.samplers.sampler import matches_at_every_position
from imagegram.samplers.settings import Settings
from imagegram.samplers.smoothed import smoothed_probabilities

MATCHES_AT_ONCE = 1 << 22  # looked at together: bounds the memory


def probabilities(
    index: Index, settings: Settings, tokens: NDArray[np.uint16], own: Ints | None = None
) -> NDArray[np.float64]:
    """p(x_i | x_1 .. x_{i-1}) of every token of `tokens` [n, k]: float64 [n, k], 0 where it cannot be drawn.

    own: int64 [n], where the sequences are different rows of the index: each is then predicted from all the others
    (leave-one-out; where nothing else has its context, 0).
    """
    settings.check()
    if settings.method == "kernel":
        return kernel_probabilities(index, tokens, settings, own)
    if settings.method == "smoothed":
        return smoothed_probabilities(index, tokens, settings, own)
    result = np.empty(tokens.shape)
    every = matches_at_every_position(index, settings, tokens, np.random.default_rng(0))
    bar = tqdm(every, total=tokens.shape[1], desc="likelihood", unit="position", delay=3)
    for position, matches in enumerate(bar):
        result[:, position] = share_of(matches, settings, tokens[:, position], own)
    return result


def share_of(
    matches: Matches, settings: Settings, wanted: NDArray[np.uint16], own: Ints | None = None
) -> NDArray[np.float64]:
    """The probability that a draw from `matches` of n sequences gives the token `wanted` [n]: float64 [n].

    Matches that several sequences share are looked at once; with `own` [n] each leaves out those in its own image.
    """
    _, first, groups = np.unique(matches.identity, axis=0, return_index=True, return_inverse=True)
    groups = groups.ravel()
    counts = matches.counts[first]
    ends = np.cumsum(counts)
    result = np.zeros(len(wanted))
    start = 0
    while start < len(first):
        # As many groups as fit, at least one.
        before = ends[start] - counts[start]
        stop = max(start + 1, int(np.searchsorted(ends, before + MATCHES_AT_ONCE, "right")))
        part = np.arange(start, stop)
        rows = np.repeat(part, counts[part])  # the group of every match
        picks = np.arange(ends[stop - 1] - before) - (ends[rows] - counts[rows] - before)
        tokens = matches.next_tokens(first[rows], picks).astype(np.int64)
        members = np.flatnonzero((groups >= start) & (groups < stop))
        left_out = np.zeros((0, 2), np.int64)
        if own is not None:
            images = matches.sources(first[rows], picks)[:, 0]
            left_out = _own_tokens(rows, images, tokens, groups[members], own[members])
        result[members] = _shares(rows, tokens, groups[members], wanted[members], left_out, settings)
        start = stop
    return result


def _own_tokens(rows: Ints, images: Ints, tokens: Ints, groups: Ints, own: Ints) -> Ints:
    """Of matches in groups `rows` and `images` [m] with next `tokens` [m], those that are in the group and the `own`
    image of a sequence of n: the number of the sequence and the token, int64 [*, 2]."""
    order = np.lexsort((own, groups))
    asked = (groups << 32 | own)[order]
    found = rows << 32 | images
    place = np.searchsorted(asked, found).clip(max=len(asked) - 1)
    mine = asked[place] == found
    return np.stack([order[place[mine]], tokens[mine]], 1)


def _shares(
    rows: Ints, tokens: Ints, groups: Ints, wanted: NDArray[np.uint16], left_out: Ints, settings: Settings
) -> NDArray[np.float64]:
    """Of matches in groups `rows` [m] with next `tokens` [m], the share of each `wanted` [n] in its group [n].

    left_out: [*, 2], the number of a sequence and the token of a match that does not count for it.
    """
    n = len(groups)
    known, counts = np.unique(rows << 16 | tokens, return_counts=True)
    if not settings.reweighted:
        without, fewer = np.unique(left_out[:, 0] << 16 | left_out[:, 1], return_counts=True)
        hits = look_up(known, counts, groups << 16 | wanted) - look_up(without, fewer, np.arange(n) << 16 | wanted)
        total = np.bincount(rows)[groups] - np.bincount(left_out[:, 0], minlength=n)
        return hits / np.maximum(1, total)

    result = np.zeros(n)
    cases = np.arange(n) if len(left_out) else groups  # sequences of equal distributions
    for case, one in zip(*np.unique(cases, return_index=True), strict=True):
        low, high = np.searchsorted(known, [groups[one] << 16, groups[one] + 1 << 16])
        kinds = known[low:high] & 65535
        weights = counts[low:high].copy()
        np.subtract.at(weights, np.searchsorted(kinds, left_out[left_out[:, 0] == one, 1]), 1)
        if weights.any():
            p = truncated(weights, settings.temperature, settings.top_k, settings.top_p)
            members = np.flatnonzero(cases == case)
            result[members] = look_up(kinds, p, wanted[members])
    return result
