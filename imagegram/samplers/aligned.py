"""Contexts at the same position, found by bisecting many sorted ranges at once.

Image tokens are ordered: the same id at another position means something else.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np

from imagegram.cli import UserError
from imagegram.index.folder import Index
from imagegram.samplers.base import Sampler
from imagegram.samplers.matches import Ints, Matches, RangeMatches, Tokens


@dataclass(frozen=True, kw_only=True)
class InPlace(Sampler):
    """A sampler of contexts at the same position."""

    with_context: ClassVar[str]  # what it does where there is one

    context: int = 2  # tokens at most; 0: each position on its own

    @property
    def how(self) -> str:
        alone = "Every token is drawn by itself, from those at its position"
        return self.with_context if self.context else alone


@dataclass(frozen=True, kw_only=True)
class Aligned(InPlace):
    """The longest context of the same tokens at the same positions that enough images share."""

    name = "aligned"
    with_context = (
        "The next token is that of a training image which has the same tokens before it, at the "
        "same position"
    )

    min_images: int = 2  # images that must share a context, else it is shortened; 1 copies
    anchor: int = 0  # first tokens that must match as well, however short the context

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.min_images == 0:
            raise UserError("min_images 0: it must be positive; 1 copies")

    def matches(self, index: Index, drawn: Tokens, rng: np.random.Generator) -> Iterator[Matches]:
        for contexts in backoff(
            index.tokens, drawn, self.context, anchor=self.anchor, least=self.min_images
        ):
            counts = contexts.high - contexts.low
            longest = (counts[1:] > 0).sum(0), np.arange(len(drawn))
            low = contexts.low[longest]
            yield RangeMatches(
                index.tokens, contexts.order, contexts.position, low, counts[longest]
            )


def search(keys: Ints, wanted: Ints) -> tuple[Ints, Ints]:
    """Where sorted `keys` [N] hold each of `wanted` [n], as ranges.

    >>> low, high = search(np.array([1, 1, 4]), np.array([4, 1, 2]))
    >>> low.tolist(), high.tolist()
    ([2, 0, 2], [3, 2, 2])
    """
    order = np.argsort(wanted)  # asked in order, which spares most cache misses
    low, high = np.empty((2, len(wanted)), np.int64)
    low[order] = np.searchsorted(keys, wanted[order], "left")
    high[order] = np.searchsorted(keys, wanted[order], "right")
    return low, high


@dataclass(frozen=True)
class Backoff:
    """The images that share contexts of 0, 1, 2 ... tokens before `position` with n sequences.

    Each range [low, high) of `order` lies in that of the context before; it is empty where fewer
    images share the context than asked for.
    """

    order: Ints  # images, so sorted that those which share a context are neighbours
    position: int
    low: Ints  # [depths, n]
    high: Ints
    columns: tuple[Tokens, ...]  # the images' tokens at `position`, and before it as far as needed

    @cached_property
    def following(self) -> Tokens:
        """The images' tokens at `position`, in `order`."""
        return self.columns[0][self.order]

    @cached_property
    def by_token(self) -> Ints:
        """The ranks in `order`, stably sorted by the token at `position`."""
        return np.argsort(self.following, kind="stable")


def backoff(
    trained: Tokens, drawn: Tokens, context: int, *, anchor: int = 0, least: int = 1
) -> Iterator[Backoff]:
    """The contexts at the same position, for every position of `drawn` [n, L].

    At most `context` tokens, shared by `least` images or more, which have the first `anchor` tokens
    too. `drawn` may be a token longer than the images: the last contexts are then those that end
    with an image.

    The images are kept sorted by their reversed prefix, the last token first: one stable pass over
    the newest column a position (the positional Burrows-Wheeler transform, Durbin, 2014,
    doi:10.1093/bioinformatics/btu014). Images that share a context are then neighbours, and a
    longer context is a range inside that of a shorter one.
    """
    n, length = drawn.shape
    order = np.arange(len(trained))
    columns = deque[Tokens](maxlen=1 + max(1, min(context, length)))  # the latest first
    image_anchors = np.zeros(len(trained), np.int64)  # equal where the first `anchor` tokens are
    anchors = np.zeros(n, np.int64)  # the same of the sequences
    before = None  # the contexts of the last position
    coming = read_columns(trained, length)
    for position in range(length):
        # none after the last: only its contexts are asked for
        columns.appendleft(next(coming, np.zeros(0, np.uint16)))

        # 1) The images sorted by one more token, the latest, and by the anchor.
        if before is not None:
            order = order[before.by_token]
            if position <= anchor:
                image_anchors = image_anchors * 65536 + columns[1]
                anchors = anchors * 65536 + drawn[:, position - 1]
                _, both = np.unique(np.append(image_anchors, anchors), return_inverse=True)
                image_anchors, anchors = np.split(both, [len(trained)])
            if anchor:
                order = order[np.argsort(image_anchors[order], kind="stable")]

        # 2) Contexts as numbers, those of the images in their order, so sorted.
        backs = range(1, min(context, position - anchor) + 1)
        longer = ((columns[back][order], drawn[:, position - back]) for back in backs)
        ranges = list(_ranges(image_anchors[order], anchors, longer, least))
        low, high = np.stack(ranges, 1)
        before = Backoff(order, position, low, high, tuple(columns))
        yield before


def _ranges(
    keys: Ints, wanted: Ints, longer: Iterable[tuple[Tokens, Tokens]], least: int
) -> Iterator[tuple[Ints, Ints]]:
    """Where the contexts of n sequences stand among the sorted ones of N images, as ranges [n]: the
    shortest, then those that are longer by a token each, while `least` images share them.

    keys [N], wanted [n]: the shortest contexts of the images and of the sequences, as numbers.
    longer: the tokens of the images [N] and of the sequences [n] before, the latest first.
    """
    n = len(wanted)
    low, high = search(keys, wanted)
    yield low, high
    shared = np.arange(n)  # sequences whose context enough images share so far
    for back, (column, text) in enumerate(longer, 1):
        if back % 2 and back > 1:  # after two tokens of 16 bits: a third might not fit
            keys = np.cumsum(np.append(0, keys[1:] != keys[:-1]))
            wanted = keys[low]
        keys = keys * 65536 + column
        wanted = wanted * 65536 + text[shared]
        low, high = search(keys, wanted)
        enough = high - low >= least
        if not enough.any():
            break
        shared, wanted, low, high = (each[enough] for each in (shared, wanted, low, high))
        found = np.zeros((2, n), np.int64)
        found[:, shared] = low, high
        yield found[0], found[1]


def read_columns(tokens: Tokens, length: int) -> Iterator[Tokens]:
    """The first `length` columns of tokens [N, L], each contiguous. The rows of a memory-mapped
    corpus are far apart: what lies side by side in one is read once."""
    together = 32  # tokens of a cache line
    for first in range(0, length, together):
        yield from np.ascontiguousarray(tokens[:, first : min(first + together, length)].T)
