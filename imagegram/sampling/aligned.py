"""Contexts: where the tokens so far stand in the index, by bisection of many sorted ranges at once."""

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


def bound(key: Callable[[Ints], NDArray[np.integer]], wanted: NDArray[np.integer], low: Ints, high: Ints) -> Ints:
    """Bisection of many ranges at once: the first place in each [low, high) whose key is not below `wanted` [n]."""
    low, high = low.copy(), high.copy()
    active = np.flatnonzero(low < high)
    while active.size:
        middle = (low[active] + high[active]) // 2
        below = key(middle) < wanted[active]
        low[active[below]] = middle[below] + 1
        high[active[~below]] = middle[~below]
        active = active[low[active] < high[active]]
    return low


def narrow(
    key: Callable[[Ints], NDArray[np.integer]], wanted: NDArray[np.integer], low: Ints, high: Ints
) -> tuple[Ints, Ints]:
    """The part of each range [low, high), sorted by `key`, where the key is `wanted` [n]."""
    wanted = wanted.astype(np.int64)
    both = bound(key, np.concatenate([wanted, wanted + 1]), np.tile(low, 2), np.tile(high, 2))
    return both[: len(low)], both[len(low) :]


def search(keys: Ints, wanted: Ints) -> tuple[Ints, Ints]:
    """Where sorted `keys` [N] hold each of `wanted` [n], as ranges. Asked in order, which spares most cache misses."""
    order = np.argsort(wanted)
    low, high = np.empty((2, len(wanted)), np.int64)
    low[order], high[order] = (np.searchsorted(keys, wanted[order], side) for side in ("left", "right"))
    return low, high


@dataclass(frozen=True)
class Ladder:
    """The images that share contexts of 0, 1, 2 ... tokens before `position` with n sequences, each in the last."""

    order: Ints  # images, so sorted that those which share a context are neighbours
    position: int
    low: Ints  # [depths, n]: ranges of `order`, empty where fewer images share the context than asked for
    high: Ints


def ladder(
    trained: NDArray[np.uint16], drawn: NDArray[np.uint16], context: int, anchor: int = 0, least: int = 1
) -> Iterator[Ladder]:
    """The contexts at the same position, for one position after another; the caller fills `drawn` [n, L] meanwhile.

    At most `context` tokens, shared by `least` images or more, which have the first `anchor` tokens too.

    The images are kept sorted by their reversed prefix, the last token first: one stable pass over the newest column
    a position (the positional Burrows-Wheeler transform, Durbin, 2014, doi:10.1093/bioinformatics/btu014). Images
    that share a context are then neighbours, and a longer context is a range inside that of a shorter one.
    """
    n, length = drawn.shape
    order, columns = np.arange(len(trained)), deque[NDArray[np.uint16]](maxlen=max(1, min(context, length)))
    anchors = np.zeros(len(trained), np.int64)  # the number of every image's first `anchor` tokens
    mine = np.zeros(n, np.int64)  # and of every sequence's
    for position in range(length):
        if position:
            # Contiguous: the rows of a memory-mapped corpus are far apart.
            column = np.ascontiguousarray(trained[:, position - 1])
            columns.append(column)
            if position <= anchor:
                both = np.concatenate([anchors * 65536 + column, mine * 65536 + drawn[:, position - 1]])
                numbers = np.unique(both, return_inverse=True)[1]
                anchors, mine = numbers[: len(trained)], numbers[len(trained) :]
            order = order[np.argsort(column[order], kind="stable")]
            order = order[np.argsort(anchors[order], kind="stable")] if anchor else order
        # Contexts as numbers, in the order of the images and therefore sorted; and the same of the sequences.
        keys, wanted = anchors[order], mine
        whole = (np.zeros(n, np.int64), np.full(n, len(trained)))
        ranges, growing = [search(keys, wanted) if anchor else whole], np.arange(n)
        for back in range(1, min(context, position - anchor) + 1):
            if back % 2 and back > 1:  # after two tokens of 16 bits: a third might not fit
                keys = np.cumsum(np.append(0, keys[1:] != keys[:-1]))
                wanted = keys[ranges[-1][0][growing]]
            keys = keys * 65536 + columns[-back][order]
            wanted = wanted * 65536 + drawn[growing, position - back]
            low, high = search(keys, wanted)
            enough = high - low >= least
            growing, wanted = growing[enough], wanted[enough]
            if not growing.size:
                break
            ranges.append((np.zeros(n, np.int64), np.zeros(n, np.int64)))
            ranges[-1][0][growing], ranges[-1][1][growing] = low[enough], high[enough]
        yield Ladder(order, position, np.stack([r[0] for r in ranges]), np.stack([r[1] for r in ranges]))


def tally(
    column: NDArray[np.uint16], low: Ints, high: Ints, wanted: NDArray[np.uint16] | None = None
) -> tuple[Ints, Ints]:
    """How many different tokens `column[low:high]` holds, and how often it holds `wanted`, for n ranges: int64 [n].

    Ranges of one depth are equal or disjoint, so that no image is looked at twice.
    """
    ranges, which = np.unique(np.stack([low, high], 1), axis=0, return_inverse=True)
    sizes = ranges[:, 1] - ranges[:, 0]
    ends = np.cumsum(sizes)
    places = np.arange(ends[-1]) + np.repeat(ranges[:, 0] - ends + sizes, sizes)
    pairs = np.repeat(np.arange(len(ranges)), sizes) * 65536 + column[places]
    known, counts = np.unique(pairs, return_counts=True)
    distinct = np.bincount(known // 65536, minlength=len(ranges))[which.ravel()]
    if wanted is None:
        return distinct, np.zeros_like(low)
    asked = which.ravel() * 65536 + wanted
    spots = np.searchsorted(known, asked).clip(max=len(known) - 1)
    return distinct, np.where(known[spots] == asked, counts[spots], 0)


def discounts(trained: NDArray[np.uint16], rungs: Ladder) -> list[float]:
    """What absolute discounting takes off every count, for the contexts of 0, 1, 2 ... tokens: n1 / (n1 + 2 n2) of the
    numbers of (context, token) pairs seen once and twice (Ney, Essen & Kneser, 1994, doi:10.1006/csla.1994.1001).

    Never below 0.1, so that what was not seen stays possible.
    """
    column = trained[rungs.order, rungs.position].astype(np.int64)
    starts = np.zeros(len(trained), bool)  # of a new context in the order
    result = []
    for depth in range(len(rungs.low)):
        if depth:
            context = trained[rungs.order, rungs.position - depth]
            starts[1:] |= context[1:] != context[:-1]
        counts = np.unique(np.cumsum(starts) * 65536 + column, return_counts=True)[1]
        once, twice = int((counts == 1).sum()), int((counts == 2).sum())
        result.append(max(0.1, once / max(1, once + 2 * twice)))
    return result
