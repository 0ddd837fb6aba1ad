"""Runs found in the suffix tables are those that brute force finds."""

from collections import Counter

import numpy as np
import pytest
from numpy.typing import NDArray

from imagegram.index.engine import Engine
from imagegram.samplers import Ntd
from imagegram.samplers.ntd import unique_contexts
from tests.support.corpora import assert_same, corpora, shared_index_of


@pytest.mark.parametrize("shard_images", [0, 5])
@pytest.mark.parametrize("name", corpora())
def test_longest_runs_agree_with_brute_force(name: str, shard_images: int) -> None:
    training = corpora()[name]
    rng, length = np.random.default_rng(1), training.shape[1]
    sequences = rng.choice(np.unique(training), (12, length)).astype(np.uint16)
    sequences[:4] = np.roll(training[rng.integers(0, len(training), 4)], -1, 1)
    if length > 2:
        sequences[4:8, :2] = training[rng.integers(0, len(training), 4), -2:]
    index = shared_index_of(training, 65_279, shard_images)
    runs = [(i, j) for i in range(length) for j in range(i + 1, length + 1)]
    known = {tuple(row[i:j]) for row in training.tolist() for i, j in runs}
    expected = np.zeros(sequences.shape, int)
    for r, row in enumerate(sequences.tolist()):
        for i, j in runs:  # longer ones later
            if tuple(row[i:j]) in known:
                expected[r, i] = j - i
    assert np.array_equal(Engine(index).longest_matches(sequences), expected)


@pytest.mark.parametrize("whole", [0, 10**9])
@pytest.mark.parametrize("context", [1, 3, 4, 5, 9])
@pytest.mark.parametrize("name", corpora())
def test_unique_contexts_agree_with_brute_force(
    monkeypatch: pytest.MonkeyPatch, name: str, context: int, whole: int
) -> None:
    monkeypatch.setattr("imagegram.samplers.ntd.WHOLE", whole)
    monkeypatch.setattr("imagegram.samplers.ntd.STEP", 16)  # so that there are seams
    corpus = shared_index_of(corpora()[name], 65_279).corpus
    line = corpus.tolist()
    all_of = Counter(tuple(line[i : i + context]) for i in range(len(line) - context + 1))
    expected = [
        i >= context and all_of[tuple(line[i - context : i])] == 1 for i in range(len(line) + 1)
    ]
    unique = unique_contexts(corpus, context).tolist()
    # Contexts that reach the end of the corpus may be called shared: no token follows them.
    assert unique[: len(line) - 3] == expected[: len(line) - 3]
    assert not any(found and not right for found, right in zip(unique, expected, strict=True))


def test_unique_contexts_are_worked_out_once_for_an_index_and_a_context(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    index = shared_index_of(next(iter(corpora().values())), 65_279)
    index.kept.clear()
    monkeypatch.setattr("imagegram.samplers.ntd.PAYS", 10**9)
    asked = []

    def ask(corpus: NDArray[np.uint16], context: int) -> NDArray[np.bool_]:
        asked.append(context)
        return unique_contexts(corpus, context)

    monkeypatch.setattr("imagegram.samplers.ntd.unique_contexts", ask)
    for context in (3, 3, 2, 3):
        Ntd(context=context).sample(index, 5, np.random.default_rng(0))
    assert asked == [3, 2]
    index.kept.clear()


def shared_middles() -> NDArray[np.int64]:
    """Images that start and end each in its own way, and have one of two runs of 12 tokens
    between."""
    rng = np.random.default_rng(4)
    rows = rng.integers(0, 30_000, (20, 36))
    rows[:, 12:24] = rng.integers(0, 30_000, (2, 12))[rng.integers(0, 2, 20)]
    return rows


COPIED = corpora() | {"images that share their middle": shared_middles()}


@pytest.mark.parametrize("shard_images", [0, 5])
@pytest.mark.parametrize("context", [1, 2, 4, 5, 9])
@pytest.mark.parametrize("name", COPIED)
def test_copying_without_a_search_draws_the_same_matches(
    monkeypatch: pytest.MonkeyPatch, name: str, context: int, shard_images: int
) -> None:
    training = COPIED[name]
    rng = np.random.default_rng(2)
    index = shared_index_of(training, 65_279, shard_images)
    length = training.shape[1]
    # and half of it shuffled
    given = training[rng.integers(0, len(training), 300)].astype(np.uint16)[:, : length // 2]
    given[::2] = rng.permuted(given[::2], axis=1)
    monkeypatch.setattr("imagegram.samplers.ntd.PAYS_MORE", 0)
    for prefix in (None, given):
        answers = []
        # The third way searches for every token: no sequence is ever known to copy.
        for pays, follow in ((0, True), (10**9, True), (0, False)):
            monkeypatch.setattr("imagegram.samplers.ntd.PAYS", pays)
            monkeypatch.setattr("imagegram.samplers.ntd.FOLLOW_COPIES", follow)
            index.kept.clear()
            rng = np.random.default_rng(3)
            answers.append(Ntd(context=context).sample(index, 300, rng, prefix=prefix))
        assert_same(*answers)
