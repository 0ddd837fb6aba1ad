"""Contexts: where the tokens so far stand in the index, by bisection of many sorted ranges at once."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from imagegram.cli import UserError
from imagegram.index.folder import Index
from imagegram.samplers.matches import Ints, Matches
from imagegram.samplers.settings import Settings


def search(keys: Ints, wanted: Ints) -> tuple[Ints, Ints]:
    """Where sorted `keys` [N] hold each of `wanted` [n], as ranges. Asked in order, which spares most cache misses."""
    order = np.argsort(wanted)
    low, high = np.empty((2, len(wanted)), np.int64)
    low[order], high[order] = (np.searchsorted(keys, wanted[order], side) for side in ("left", "right"))
    return low, high


@dataclass(frozen=True)
class Backoff:
    """The images that share contexts of 0, 1, 2 ... tokens before `position` with n sequences, each in the last."""

    order: Ints  # images, so sorted that those which share a context are neighbours
    position: int
    low: Ints  # [depths, n]: ranges of `order`, empty where fewer images share the context than asked for
    high: Ints
    columns: tuple[NDArray[np.uint16], ...]  # the images' tokens at `position` and at those of the context before it

    @cached_property
    def following(self) -> NDArray[np.uint16]:
        """The images' tokens at `position`, in `order`."""
        return self.columns[0][self.order]

    @cached_property
    def by_token(self) -> Ints:
        """The places of `order`, sorted by the token at `position` and, where that is equal, as they were."""
        return np.argsort(self.following, kind="stable")


def backoff(
    trained: NDArray[np.uint16], drawn: NDArray[np.uint16], context: int, anchor: int = 0, least: int = 1
) -> Iterator[Backoff]:
    """The contexts at the same position, for every position of `drawn` [n, L].

    At most `context` tokens, shared by `least` images or more, which have the first `anchor` tokens too. `drawn` may
    be a token longer than the images: the last contexts are then those that end with an image.

    The images are kept sorted by their reversed prefix, the last token first: one stable pass over the newest column
    a position (the positional Burrows-Wheeler transform, Durbin, 2014, doi:10.1093/bioinformatics/btu014). Images
    that share a context are then neighbours, and a longer context is a range inside that of a shorter one.
    """
    n, length = drawn.shape
    order = np.arange(len(trained))
    columns = deque[NDArray[np.uint16]](maxlen=1 + max(1, min(context, length)))  # the latest first
    anchors = np.zeros(len(trained), np.int64)  # the number of every image's first `anchor` tokens
    mine = np.zeros(n, np.int64)  # and of every sequence's
    levels = None
    coming = read_columns(trained, length)
    for position in range(length):
        columns.appendleft(next(coming, np.zeros(0, np.uint16)))  # none after the last: only its contexts are asked for
        if levels is not None:
            if position <= anchor:
                both = np.concatenate([anchors * 65536 + columns[1], mine * 65536 + drawn[:, position - 1]])
                numbers = np.unique(both, return_inverse=True)[1]
                anchors = numbers[: len(trained)]
                mine = numbers[len(trained) :]
            order = order[levels.by_token]
            order = order[np.argsort(anchors[order], kind="stable")] if anchor else order
        # Contexts as numbers, in the order of the images and therefore sorted; and the same of the sequences.
        keys = anchors[order]
        wanted = mine
        whole = (np.zeros(n, np.int64), np.full(n, len(trained)))
        ranges = [search(keys, wanted) if anchor else whole]
        growing = np.arange(n)
        for back in range(1, min(context, position - anchor) + 1):
            if back % 2 and back > 1:  # after two tokens of 16 bits: a third might not fit
                keys = np.cumsum(np.append(0, keys[1:] != keys[:-1]))
                wanted = keys[ranges[-1][0][growing]]
            keys = keys * 65536 + columns[back][order]
            wanted = wanted * 65536 + drawn[growing, position - back]
            low, high = search(keys, wanted)
            enough = high - low >= least
            growing = growing[enough]
            wanted = wanted[enough]
            if not growing.size:
                break
            ranges.append((np.zeros(n, np.int64), np.zeros(n, np.int64)))
            ranges[-1][0][growing] = low[enough]
            ranges[-1][1][growing] = high[enough]
        low = np.stack([r[0] for r in ranges])
        high = np.stack([r[1] for r in ranges])
        levels = Backoff(order, position, low, high, tuple(columns))
        yield levels


def read_columns(tokens: NDArray[np.uint16], length: int) -> Iterator[NDArray[np.uint16]]:
    """The first `length` columns of tokens [N, L], each contiguous. The rows of a memory-mapped corpus are far apart:
    what lies side by side in one is read once."""
    together = 32  # tokens of a cache line
    for first in range(0, length, together):
        yield from np.ascontiguousarray(tokens[:, first : min(first + together, length)].T)


@dataclass(frozen=True)
class AlignedMatches:
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


def aligned_matches(index: Index, settings: Settings, drawn: NDArray[np.uint16]) -> Iterator[Matches]:
    """Matches at the same position, of the longest context that enough images share."""
    rows = np.arange(len(drawn))
    for levels in backoff(index.tokens, drawn, settings.context, settings.anchor, settings.min_images):
        counts = levels.high - levels.low
        depth = (counts[1:] > 0).sum(0)
        yield AlignedMatches(index.tokens, levels.order, levels.position, levels.low[depth, rows], counts[depth, rows])


def matches_of_class(index: Index, label: int, n: int) -> Matches:
    """The first tokens of the images of a class."""
    images = np.flatnonzero(index.labels == label)
    if not len(images):
        raise UserError(f"{index.path} holds no image of class {label}: its classes are {np.unique(index.labels)}")
    return AlignedMatches(index.tokens, images, 0, np.zeros(n, np.int64), np.full(n, len(images)))
