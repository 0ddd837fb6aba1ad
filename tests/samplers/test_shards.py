"""A corpus in twelve shards gives every sampler the tokens that one shard gives it, and stays on
disk."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from imagegram.index.folder import Index
from imagegram.samplers import Aligned, Kernel, Ntd, Smoothed
from tests.support.corpora import assert_same, index_of, indexed

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
    """The same 90 images, rich in shared runs, in one shard and in twelve, whose names do not sort
    as their numbers."""
    folder = tmp_path_factory.mktemp("shards")
    rng = np.random.default_rng(0)
    tokens = rng.choice([3, 130, 256, 257, 511], (90, 10), p=[0.4, 0.3, 0.1, 0.1, 0.1])
    tokens[::4, 3:8] = rng.integers(0, 512, 5)
    one = index_of(folder, tokens)
    twelve = indexed(folder, index="twelve", shard_images=8)
    assert len(twelve.shards) == 12
    return one, twelve


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_same_seed_draws_the_same_tokens(indexes: tuple[Index, Index], name: str) -> None:
    one, twelve = (SAMPLERS[name].sample(index, 300, np.random.default_rng(1)) for index in indexes)
    if name.startswith("ntd"):
        # Where several images go on alike, another of them may be named, which has the token too.
        rows, positions = np.moveaxis(twelve.sources, -1, 0)
        assert np.array_equal(indexes[1].tokens[rows, positions], one.tokens)
        assert np.array_equal(one.tokens, twelve.tokens)
    else:
        assert_same(one, twelve)


def test_matches_are_the_same_listed_and_bisected(
    indexes: tuple[Index, Index], monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = []
    for listed in (0, 1, 10**9):
        monkeypatch.setattr("imagegram.samplers.ntd.LISTED", listed)
        monkeypatch.setattr("imagegram.samplers.ntd.FEW", 0)
        answers.append(Ntd(context=3).sample(indexes[1], 300, np.random.default_rng(1)))
    assert_same(*answers)


@pytest.mark.parametrize("name", ["ntd", "aligned", "smoothed", "kernel"])
def test_the_same_probabilities(indexes: tuple[Index, Index], name: str) -> None:
    asked = np.array(indexes[0].tokens[:9])
    one, twelve = (SAMPLERS[name].probabilities(index, asked) for index in indexes)
    assert np.allclose(one, twelve)


@pytest.mark.parametrize("name", ["ntd", "aligned", "smoothed"])
def test_the_corpus_is_not_copied_into_memory(tmp_path: Path, name: str) -> None:
    tokens = np.random.default_rng(0).integers(0, 512, (700, 1500))
    index = index_of(tmp_path, tokens, shard_images=100)
    # imports and tables of the codes
    SAMPLERS[name].sample(index, 2, np.random.default_rng(0), length=1)
    index = Index.open(index.path)
    tracemalloc.start()
    SAMPLERS[name].sample(index, 2, np.random.default_rng(0), length=200)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 0.7 * index.tokens.size * 2  # bytes
