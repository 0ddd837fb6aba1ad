"""Indexes of the size of a real one, as a rule 256 tokens of 64,000 an image, made without a
codec."""

from pathlib import Path

import numpy as np
import scipy.fft
from numpy.typing import NDArray
from tqdm import trange

from imagegram.data.scenes import scene
from imagegram.index.build import build_index
from imagegram.index.folder import Index
from imagegram.token_arrays import tokens_from

LEVELS = (8, 8, 8, 5, 5, 5)  # FlexTok's, 64,000 codes
LENGTH = 256
AT_ONCE = 25_000  # images
Tokens = NDArray[np.uint16]


def unrelated(folder: Path, images: int, length: int = LENGTH) -> Index:
    """Images that have nothing in common but how often a token stands at a position.

    A token is one of 2,000 that are common at its position, or, one in ten, any.
    """
    rng = np.random.default_rng(0)
    common = rng.integers(0, 64_000, (length, 2000))
    parts = []
    for first in range(0, images, AT_ONCE):
        shape = min(AT_ONCE, images - first), length
        ranks = (2000 * rng.random(shape) ** 3).astype(np.int64)
        usual = common[np.arange(length), ranks]
        rows = np.where(rng.random(shape) < 0.9, usual, rng.integers(0, 64_000, shape))
        parts.append(rows.astype(np.uint16))
    return _index(folder, parts)


def frequencies(folder: Path, images: int) -> Index:
    """Procedural scenes of 32 pixels as tokens from coarse to fine, the order of FlexTok's.

    A token holds two frequencies of the cosine transform, of three channels each, low frequencies
    first. Each of these numbers becomes a digit: its rank among the first images', in as many steps
    as the digit has levels.
    """
    edges: list[NDArray[np.float32]] = []
    parts = []
    for first in range(0, images, AT_ONCE):
        scenes = trange(first, min(first + AT_ONCE, images), desc="scenes", unit="image")
        numbers = np.stack([_waves(scene(0, i)[0]) for i in scenes])
        if not edges:
            levels = zip(numbers.T, LENGTH * LEVELS, strict=True)
            edges = [np.quantile(column, np.arange(1, n) / n) for column, n in levels]
        digits = np.stack(list(map(np.searchsorted, edges, numbers.T)), 1)
        ids = digits.reshape(len(digits), LENGTH, len(LEVELS)) @ np.cumprod([1, *LEVELS[:-1]])
        parts.append(ids.astype(np.uint16))
    return _index(folder, parts)


def _waves(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """An image [32, 32, 3] -> the numbers of its LENGTH * 2 lowest frequencies: brightness and two
    colours of each."""
    red, green, blue = np.moveaxis(image.astype(np.float32), 2, 0)
    channels = np.stack([red + green + blue, red - blue, red - 2 * green + blue])
    waves = scipy.fft.dctn(channels, axes=(1, 2), norm="ortho")
    order = np.argsort(np.add.outer(np.arange(32), np.arange(32)), axis=None, kind="stable")
    return waves.reshape(3, -1)[:, order[: 2 * LENGTH]].T.ravel()


CORPORA = {"unrelated": unrelated, "frequencies": frequencies}


def _index(folder: Path, parts: list[Tokens]) -> Index:
    """The index of all parts, of which no image is held out."""
    whole = np.concatenate(parts)
    tokens = tokens_from(whole, folder / "tokens", levels=LEVELS, held_out_share=0.0)
    return build_index([tokens.path], folder / "input", folder / "index", builder="divsufsort")
