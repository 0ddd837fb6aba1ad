"""Small corpora as token folders and as indexes, for the tests."""

import functools
import hashlib
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from imagegram.data.spec import DatasetSpec
from imagegram.index.build import build_index
from imagegram.index.folder import Index
from imagegram.manifest import Manifest
from imagegram.samplers import Samples
from imagegram.tokens import TERMINATOR, TokenFolder


def manifest_of(**values: Any) -> Manifest:
    """A manifest in which these values matter."""
    usual: dict[str, Any] = {"dataset": DatasetSpec("fake"), "split": "train"}
    usual |= {"codec": "tiny", "revision": "r", "precision": "float32", "image_size": 32}
    usual |= {"preprocessing": "none", "held_out_share": 0.0, "shard_size": 1000}
    return Manifest(**usual | values)


def token_folder(
    path: Path, tokens: NDArray[np.integer], vocab_size: int = 512, held_out_share: float = 0.0
) -> Path:
    """A finished token folder with the rows of `tokens` [n, L] and labels 0, 1, 2, 0, ..."""
    n, length = tokens.shape
    manifest = manifest_of(
        fingerprint=hashlib.sha256(np.ascontiguousarray(tokens).tobytes()).hexdigest()[:16],
        images=n,
        tokens_per_image=length,
        vocab_size=vocab_size,
        levels=(8, 8, 8) if vocab_size == 512 else (),
        held_out_share=held_out_share,
        class_names=("0", "1", "2"),
    )
    folder = TokenFolder.create(path, manifest)
    for shard in range(folder.shards):
        covered = folder.range(shard)
        rows = tokens[covered.start : covered.stop]
        folder.write(shard, rows, np.arange(len(rows)) % 3, {}, 1.0)
    return path


def index_of(
    path: Path, tokens: NDArray[np.integer], vocab_size: int = 512, shard_images: int = 0
) -> Index:
    """An index of all rows of `tokens` [n, L], below `path`."""
    token_folder(path / "tokens", tokens, vocab_size)
    return indexed(path, shard_images=shard_images)


def indexed(path: Path, *tokens: str, index: str = "index", shard_images: int = 0) -> Index:
    """The index of the token folders of these names below `path`."""
    folders = [path / name for name in tokens or ["tokens"]]
    places = folders, path / "input", path / index
    return build_index(*places, builder="divsufsort", shard_images=shard_images)


PLACE = tempfile.TemporaryDirectory(prefix="indexes-")  # gone when the tests end


def shared_index_of(
    tokens: NDArray[np.integer], vocab_size: int = 512, shard_images: int = 0
) -> Index:
    """The same, built once for all tests that only read it."""
    return _built(tokens.astype(np.int64).tobytes(), tokens.shape, vocab_size, shard_images)


@functools.cache
def _built(data: bytes, shape: tuple[int, int], vocab_size: int, shard_images: int) -> Index:
    path = Path(tempfile.mkdtemp(dir=PLACE.name))
    return index_of(path, np.frombuffer(data, np.int64).reshape(shape), vocab_size, shard_images)


def related(n: int, length: int = 4, seed: int = 0) -> NDArray[np.uint16]:
    """Images [n, length] of levels (8, 8, 8), each near digits of its own: contexts tell a lot."""
    rng = np.random.default_rng(seed)
    digits = (rng.integers(1, 7, (n, 1, 1)) + rng.integers(-1, 2, (n, length, 3))).clip(0, 7)
    return (digits @ np.array([1, 8, 64])).astype(np.uint16)


def assert_same(samples: Samples, *others: Samples) -> None:
    """The same tokens from the same places."""
    for other in others:
        assert np.array_equal(samples.tokens, other.tokens)
        assert np.array_equal(samples.sources, other.sources)


@st.composite
def token_arrays(draw: st.DrawFn, max_images: int = 12, max_length: int = 300) -> NDArray[np.int64]:
    """Corpora [n, L] over one token to all 65,279, rich in repeated rows and runs."""
    n = draw(st.integers(1, max_images))
    length = draw(st.one_of(st.integers(1, 8), st.integers(1, max_length)))
    alphabet = draw(st.one_of(st.integers(1, 4), st.integers(1, TERMINATOR)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    letters = rng.choice(TERMINATOR, alphabet, replace=False)
    rows = letters[rng.integers(0, alphabet, (n, length))]
    if draw(st.booleans()):
        rows = rows[rng.integers(0, n, n)]
    return rows


def naive_suffixes(tokens: NDArray[np.uint16]) -> list[int]:
    """All suffixes in the order of their little-endian bytes, by sorting them as byte strings."""
    data = tokens.tobytes()
    return sorted(range(len(tokens)), key=lambda i: data[2 * i :])


def corpora() -> dict[str, NDArray[np.int64]]:
    """Random and adversarial corpora, [n, L]."""
    rng = np.random.default_rng(0)
    repeated = np.repeat(rng.integers(0, 20, (6, 10)), 3, axis=0)
    return {
        "random, two tokens": rng.integers(0, 2, (40, 7)),
        "random, many tokens": rng.integers(0, 512, (30, 12)),
        "first image sorts last": np.vstack([np.full((1, 5), 511), rng.integers(0, 9, (19, 5))]),
        "all images equal": np.tile(rng.integers(0, 512, (1, 6)), (9, 1)),
        "one image": rng.integers(0, 512, (1, 8)),
        "one token everywhere": np.zeros((10, 4), np.int64),
        "one token an image": rng.integers(0, 4, (20, 1)),
        "copies of whole images": repeated,
        "bytes that order the other way": rng.choice([1, 256, 257, 65278, 255, 65024], (25, 6)),
    }
