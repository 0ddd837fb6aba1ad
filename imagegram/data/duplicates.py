"""Near-duplicates, by a perceptual hash: a picture scaled or saved again has nearly the same one.

The 64 bits are those of pHash (Zauner, 2010; the library `imagehash`): whether each of the 8 x 8
lowest frequencies of the grey picture lies above their median.
"""

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SIDE = 8  # frequencies in each direction
NEAR = 4  # bits of 64 that may differ: nine in ten pictures that were scaled or saved again as JPEG
# root mean square difference in levels of 255: above it the pictures only have the same forms
ALIKE = 16
MOST = 20_000  # pairs whose pixels are compared, the nearest hashes first
FILE = "duplicates.json"  # in a token folder
Rows = NDArray[np.int64]
GREY = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601, as Pillow's


def perceptual_hashes(images: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """The hash of every picture: uint8 [n, 3, S, S] -> uint64 [n]."""
    size = images.shape[-1]
    places = (2 * np.arange(size) + 1) * np.pi / (2 * size)
    # The first rows of the cosine transform.
    waves = np.cos(np.arange(SIDE)[:, None] * places) / size
    grey = np.einsum("ncij,c->nij", images, GREY, optimize=True)
    frequencies = (waves @ grey @ waves.T).reshape(len(images), -1)
    bits = frequencies > np.median(frequencies, 1, keepdims=True)
    return np.packbits(bits, axis=1, bitorder="little").view("<u8").ravel().astype(np.uint64)


@dataclass(frozen=True)
class Pair:
    """Two rows that show nearly the same, and their difference in levels of 255."""

    held_out: int
    training: int
    error: float


def across(
    hashes: NDArray[np.uint64], out: NDArray[np.bool_], picture: Callable[[int], NDArray[np.uint8]]
) -> list[Pair]:
    """The held-out images (`out`) that are nearly a training image, the most alike first.

    The hashes find them, and the pixels of `picture(row)`, uint8 [3, S, S], decide.
    """
    pixels = functools.cache(lambda row: picture(row).astype(np.float32))
    held, training = np.flatnonzero(out), np.flatnonzero(~out)
    pairs = near_pairs(hashes[held], hashes[training])
    left, right = held[pairs[:, 0]], training[pairs[:, 1]]
    order = np.argsort(np.bitwise_count(hashes[left] ^ hashes[right]), kind="stable")[:MOST]
    found = []
    for a, b in zip(left[order].tolist(), right[order].tolist(), strict=True):
        error = float(np.sqrt(np.square(pixels(a) - pixels(b)).mean()))
        if error <= ALIKE:
            found.append(Pair(a, b, error))
    return sorted(found, key=lambda pair: pair.error)


def near_pairs(
    left: NDArray[np.uint64], right: NDArray[np.uint64], most: int = NEAR
) -> NDArray[np.int64]:
    """Which hashes differ in at most `most` bits: their rows, int64 [pairs, 2], sorted.

    Of most + 1 parts of the bits such a pair has one that is equal: only such pairs are compared.
    """
    found = [np.zeros((0, 2), np.int64)]
    for part in range(most + 1):
        # Every fourth bit: neighbours are alike in many pictures.
        mask = np.uint64(sum(1 << bit for bit in range(part, 64, most + 1)))
        for rows, columns in _equal(left & mask, right & mask):
            near = np.bitwise_count(left[rows] ^ right[columns]) <= most
            found.append(np.stack([rows[near], columns[near]], 1))
    return np.unique(np.concatenate(found), axis=0)


def _equal(left: NDArray[np.uint64], right: NDArray[np.uint64]) -> Iterator[tuple[Rows, Rows]]:
    """The pairs of rows with equal values, some at a time."""
    order = np.argsort(right, kind="stable")
    first = np.searchsorted(right[order], left)
    count = np.searchsorted(right[order], left, side="right") - first
    for start in range(0, len(left), 1024):
        part = slice(start, start + 1024)
        rows = np.repeat(np.arange(len(left))[part], count[part])
        within = np.arange(len(rows)) - np.repeat(np.cumsum(count[part]) - count[part], count[part])
        yield rows, order[np.repeat(first[part], count[part]) + within]
