"""A corpus in seven shards gives every sampler the tokens that one shard gives it, and stays on disk."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from imagegram.index.build import build_index
from imagegram.index.folder import Index
from imagegram.index.joined import Joined
from imagegram.samplers import Aligned, Kernel, Ntd, Smoothed
from tests.support.corpora import index_of

SAMPLERS = {
    "ntd": Ntd(context=3),
    "ntd, reweighted": Ntd(context=3, temperature=0.7, top_k=5),
    "ntd, every position on its own": Ntd(context=0),
    "aligned": Aligned(context=2, min_images=2),
    "aligned, reweighted": Aligned(context=2, min_images=2, top_p=0.8),
    "aligned, anchored, of a class": Aligned(context=2, min_images=2, anchor=1, label="1"),
    "smoothed": Smoothed(context=2),
    "smoothed, reweighted": Smoothed(context=2, temperature=0.7),
    "kernel": Kernel(),
}


@pytest.fixture(scope="module")
def indexes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Index, Index]:
    """The same 90 images, rich in shared runs, in one shard and in seven."""
    folder = tmp_path_factory.mktemp("shards")
    rng = np.random.default_rng(0)
    tokens = rng.choice([3, 130, 256, 257, 511], (90, 10), p=[0.4, 0.3, 0.1, 0.1, 0.1])
    tokens[::4, 3:8] = rng.integers(0, 512, 5)
    one = index_of(folder, tokens)
    seven = build_index([folder / "tokens"], folder / "input", folder / "seven", "divsufsort", 13)
    assert len(seven.shards) == 7
    return one, seven


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_same_seed_draws_the_same_tokens(
    indexes: tuple[Index, Index], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr("imagegram.samplers.kernel.fit.STEPS", 3)
    one, seven = (SAMPLERS[name].sample(index, 300, np.random.default_rng(1)) for index in indexes)
    assert np.array_equal(one.tokens, seven.tokens)
    if name.startswith("ntd"):
        # Where several images go on alike, another of them may be named; it holds the token all the same.
        rows, positions = np.moveaxis(seven.sources, -1, 0)
        assert np.array_equal(indexes[1].tokens[rows, positions], seven.tokens)
    else:
        assert np.array_equal(one.sources, seven.sources)


@pytest.mark.parametrize("name", ["ntd", "aligned", "smoothed", "kernel"])
def test_the_same_probabilities(indexes: tuple[Index, Index], monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr("imagegram.samplers.kernel.fit.STEPS", 3)
    one, seven = (SAMPLERS[name].probabilities(index, np.array(indexes[0].tokens[:9])) for index in indexes)
    assert np.allclose(one, seven)


@pytest.mark.parametrize("name", ["ntd", "aligned", "smoothed"])
def test_the_corpus_is_not_copied_into_memory(tmp_path: Path, name: str) -> None:
    index = index_of(tmp_path, np.random.default_rng(0).integers(0, 512, (700, 1500)), shard_images=100)
    SAMPLERS[name].sample(index, 2, np.random.default_rng(0), length=1)  # imports and tables of the codes
    index = Index.open(index.path)
    tracemalloc.start()
    SAMPLERS[name].sample(index, 2, np.random.default_rng(0), length=200)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 0.7 * index.tokens.size * 2  # bytes


def test_joined_arrays_are_indexed_like_one() -> None:
    rng = np.random.default_rng(0)
    whole = rng.integers(0, 65536, (20, 6)).astype(np.uint16)
    table = Joined([whole[:7], whole[7:7], whole[7:12], whole[12:]])
    rows = rng.integers(-20, 20, (4, 5))
    keys = [
        slice(None), slice(3, 15), slice(-4, None), slice(9, 4), slice(None, None, 3), slice(None, None, -1),
        rows, rows[0], 13, whole[:, 0] > 30000,
        (slice(None), 2), (slice(5, 18), slice(1, 4)), (slice(1, None, 2), 3),
        (rows, 2), (rows, slice(1, 3)), (rows[:, :1], np.arange(6)), (rows, rows % 6),
    ]  # fmt: skip
    for key in keys:
        assert np.array_equal(table[key], whole[key]), key
        assert table[key].shape == whole[key].shape
    column = Joined([whole[:4, 0], whole[4:, 0]])
    assert np.array_equal(column[rows], whole[:, 0][rows])
    assert np.array_equal(np.asarray(table), whole)
    assert (table.shape, table.size, len(table)) == (whole.shape, whole.size, len(whole))
    with pytest.raises(IndexError, match="of 20"):
        table[np.array([3, 20])]
