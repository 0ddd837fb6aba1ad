"""Indexes of the size of a real one, as a rule 256 tokens of 64,000 an image, made without a codec."""

from pathlib import Path

import numpy as np
import scipy.fft
from numpy.typing import NDArray
from tqdm import trange

from imagegram.data.scenes import scene
from imagegram.data.spec import DatasetSpec
from imagegram.index.build import build_index
from imagegram.index.folder import Index
from imagegram.tokens import Manifest, TokenFolder

LEVELS = (8, 8, 8, 5, 5, 5)  # FlexTok's, 64,000 codes
LENGTH = 256
SHARD = 25_000


def unrelated(folder: Path, images: int, length: int = LENGTH) -> Index:
    """Images that have nothing in common but how often a token stands at a position.

    A token is one of 2,000 that are common at its position, or, one in ten, any.
    """
    rng = np.random.default_rng(0)
    common = rng.integers(0, 64_000, (length, 2000))
    tokens = token_folder(folder / "tokens", "unrelated", images, length)
    for shard in range(tokens.shards):
        n = len(tokens.range(shard))
        ranks = (2000 * rng.random((n, length)) ** 3).astype(np.int64)
        rows = np.where(
            rng.random((n, length)) < 0.9, common[np.arange(length), ranks], rng.integers(0, 64_000, (n, length))
        )
        tokens.write(shard, rows, np.zeros(n, np.int64), {}, 1.0)
    return _index(folder)


def random_codes(folder: Path, images: int, length: int = LENGTH, shard_images: int = 0) -> Index:
    """What a random linear encoder makes of images of 64 normal numbers: FSQ digits, which depend on each other."""
    rng = np.random.default_rng(0)
    levels = np.array(LEVELS)
    weights = rng.normal(0, 1 / 8, (64, length * len(levels))).astype(np.float32)
    tokens = token_folder(folder / "tokens", "random codes", images, length)
    for shard in trange(tokens.shards, desc="tokens", unit="shard"):
        n = len(tokens.range(shard))
        latents = np.tanh(rng.normal(size=(n, 64)).astype(np.float32) @ weights).reshape(n, length, -1)
        digits = ((latents + 1) / 2 * levels).astype(np.int64).clip(0, levels - 1)
        tokens.write(shard, digits @ np.cumprod([1, *LEVELS[:-1]]), np.zeros(n, np.int64), {}, 1.0)
    return _index(folder, shard_images)


def frequencies(folder: Path, images: int) -> Index:
    """Procedural scenes of 32 pixels as tokens from coarse to fine, the order of FlexTok's.

    A token holds two frequencies of the cosine transform, of three channels each, low frequencies first. Each of
    these numbers becomes a digit: its rank among the first images', in as many steps as the digit has levels.
    """
    tokens = token_folder(folder / "tokens", "frequencies", images)
    edges: list[NDArray[np.float32]] = []
    for shard in range(tokens.shards):
        rows = tokens.range(shard)
        numbers = np.stack([_waves(scene(0, rows[i])[0]) for i in trange(len(rows), desc="scenes", unit="image")])
        if not edges:
            levels = np.tile(LEVELS, LENGTH)
            edges = [np.quantile(column, np.arange(1, n) / n) for column, n in zip(numbers.T, levels, strict=True)]
        digits = np.stack([np.searchsorted(e, column) for e, column in zip(edges, numbers.T, strict=True)], 1)
        ids = digits.reshape(len(rows), LENGTH, len(LEVELS)) @ np.cumprod([1, *LEVELS[:-1]])
        tokens.write(shard, ids, np.zeros(len(rows), np.int64), {}, 1.0)
    return _index(folder)


def _waves(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """An image [32, 32, 3] -> the numbers of its LENGTH * 2 lowest frequencies: brightness and two colours of each."""
    red, green, blue = np.moveaxis(image.astype(np.float32), 2, 0)
    channels = np.stack([red + green + blue, red - blue, red - 2 * green + blue])
    waves = scipy.fft.dctn(channels, axes=(1, 2), norm="ortho")
    order = np.argsort(np.add.outer(np.arange(32), np.arange(32)), axis=None, kind="stable")[: 2 * LENGTH]
    return waves.reshape(3, -1)[:, order].T.ravel()


CORPORA = {"unrelated": unrelated, "frequencies": frequencies}


def token_folder(path: Path, name: str, images: int, length: int = LENGTH) -> TokenFolder:
    """An empty folder for the tokens of so many images."""
    manifest = Manifest(
        dataset=DatasetSpec(name),
        split="train",
        fingerprint="0",
        images=images,
        codec="none",
        revision="0",
        precision="none",
        tokens_per_image=length,
        vocab_size=64_000,
        levels=LEVELS,
        image_size=256,
        preprocessing="none",
        held_out_share=0.0,
        shard_size=SHARD,
    )
    return TokenFolder.create(path, manifest)


def _index(folder: Path, shard_images: int = 0) -> Index:
    place = folder / "input", folder / "index"
    return build_index([folder / "tokens"], *place, builder="divsufsort", shard_images=shard_images)
