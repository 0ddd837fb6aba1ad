"""Contexts at the same position, found by bisecting many sorted ranges at once.

Image tokens are ordered: the same id at another position means something else.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from imagegram.cli import UserError
from imagegram.index.folder import Index
from imagegram.samplers.base import Sampler, Tokens
from imagegram.samplers.matches import Ints, RangeMatches

ALONE = "Every token is drawn by itself, from those at its position"  # without context


@dataclass(frozen=True, kw_only=True)
class Aligned(Sampler):
    """The longest context of the same tokens at the same positions that enough images share."""

    name = "aligned"

    context: int = 2  # tokens at most; 0: each position on its own
    min_images: int = 2  # images that must share a context, else it is shortened; 1 copies
    anchor: int = 0  # first tokens that must match as well, however short the context

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.min_images == 0:
            raise UserError("min_images 0: it must be positive; 1 copies")

    @property
    def how(self) -> str:
        if self.context == 0:
            return ALONE
        return (
            "The next token is that of a training image which has the same tokens before it, at "
            "the same position"
        )

    def matches(
        self, index: Index, drawn: Tokens, rng: np.random.Generator
    ) -> Iterator[RangeMatches]:
        """Matches at the same position, of the longest context that enough images share."""
        rows = np.arange(len(drawn))
        for contexts in backoff(
            index.tokens, drawn, self.context, anchor=self.anchor, least=self.min_images
        ):
            counts = contexts.high - contexts.low
            depth = (counts[1:] > 0).sum(0)
            low = contexts.low[depth, rows]
            yield RangeMatches(
                index.tokens, contexts.order, contexts.position, low, counts[depth, rows]
            )


def search(keys: Ints, wanted: Ints) -> tuple[Ints, Ints]:
    """Where sorted `keys` [N] hold each of `wanted` [n], as ranges. Asked in order, which spares
    most cache misses.

    >>> low, high = search(np.array([1, 1, 4]), np.array([4, 1, 2]))
    >>> low.tolist(), high.tolist()
    ([2, 0, 2], [3, 2, 2])
    """
    order = np.argsort(wanted)
    low, high = np.empty((2, len(wanted)), np.int64)
    low[order], high[order] = (
        np.searchsorted(keys, wanted[order], side) for side in ("left", "right")
    )
    return low, high


@dataclass(frozen=True)
class Backoff:
    """The images that share contexts of 0, 1, 2 ... tokens before `position` with n sequences, each
    in the last."""

    order: Ints  # images, so sorted that those which share a context are neighbours
    position: int
    low: Ints
    """[depths, n]: ranges of `order`, empty where fewer images share the context than asked for"""
    high: Ints
    columns: tuple[NDArray[np.uint16], ...]
    """the images' tokens at `position` and at those of the context before it"""

    @cached_property
    def following(self) -> NDArray[np.uint16]:
        """The images' tokens at `position`, in `order`."""
        return self.columns[0][self.order]

    @cached_property
    def by_token(self) -> Ints:
        """The ranks in `order`, sorted by the token at `position` and, where that is equal, as they
        were."""
        return np.argsort(self.following, kind="stable")


def backoff(
    trained: NDArray[np.uint16],
    drawn: NDArray[np.uint16],
    context: int,
    *,
    anchor: int = 0,
    least: int = 1,
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
    columns = deque[NDArray[np.uint16]](maxlen=1 + max(1, min(context, length)))  # the latest first
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
                both = np.concatenate(
                    [image_anchors * 65536 + columns[1], anchors * 65536 + drawn[:, position - 1]]
                )
                numbers = np.unique(both, return_inverse=True)[1]
                image_anchors = numbers[: len(trained)]
                anchors = numbers[len(trained) :]
            if anchor:
                order = order[np.argsort(image_anchors[order], kind="stable")]

        # 2) Contexts as numbers, which are sorted in the order of the images; and the same of the
        #    sequences.
        keys = image_anchors[order]
        wanted = anchors
        everywhere = (np.zeros(n, np.int64), np.full(n, len(trained)))
        ranges = [search(keys, wanted) if anchor else everywhere]
        sorted_columns = (
            columns[back][order] for back in range(1, min(context, position - anchor) + 1)
        )
        _add_longer(ranges, keys, wanted, sorted_columns, drawn[:, :position], least)
        low, high = (np.stack(ends) for ends in zip(*ranges, strict=True))
        before = Backoff(order, position, low, high, tuple(columns))
        yield before


def _add_longer(
    ranges: list[tuple[Ints, Ints]],
    keys: Ints,
    wanted: Ints,
    columns: Iterable[Tokens],
    text: Tokens,
    least: int,
) -> None:
    """Add to the `ranges` of n sequences in the order of the images those of contexts that are
    longer by a token each.

    keys [N], wanted [n]: the shortest contexts of the images and of the sequences, as numbers.
    columns [N]: the images' tokens before, the latest first; text [n, p]: all tokens of the
    sequences so far.
    """
    n, length = text.shape
    shared = np.arange(n)  # sequences whose context enough images share so far
    for back, column in enumerate(columns, 1):
        if back % 2 and back > 1:  # after two tokens of 16 bits: a third might not fit
            keys = np.cumsum(np.append(0, keys[1:] != keys[:-1]))
            wanted = keys[ranges[-1][0][shared]]
        keys = keys * 65536 + column
        wanted = wanted * 65536 + text[shared, length - back]
        low, high = search(keys, wanted)
        enough = high - low >= least
        shared = shared[enough]
        wanted = wanted[enough]
        if not shared.size:
            break
        ranges.append((np.zeros(n, np.int64), np.zeros(n, np.int64)))
        ranges[-1][0][shared] = low[enough]
        ranges[-1][1][shared] = high[enough]


def read_columns(tokens: NDArray[np.uint16], length: int) -> Iterator[NDArray[np.uint16]]:
    """The first `length` columns of tokens [N, L], each contiguous. The rows of a memory-mapped
    corpus are far apart: what lies side by side in one is read once."""
    together = 32  # tokens of a cache line
    for first in range(0, length, together):
        yield from np.ascontiguousarray(tokens[:, first : min(first + together, length)].T)
