"""The likelihood of every sampler: brute force, what it draws, and laws that must hold."""

import numpy as np
import pytest

from imagegram.samplers import Aligned, Kernel, Ntd, Smoothed, matches
from tests.support.corpora import shared_index_of

WAYS = {
    "ntd": Ntd(context=2),
    "ntd, any context": Ntd(context=99),
    "ntd, sharpened": Ntd(context=1, temperature=0.5),
    "aligned": Aligned(context=2, min_images=2),
    "aligned, anchored": Aligned(context=1, min_images=1, anchor=1),
    "smoothed": Smoothed(context=2),
    "smoothed, sharpened": Smoothed(context=2, temperature=0.5),
    "kernel": Kernel(),
    "kernel, half a step, sharpened": Kernel(step=0.5, temperature=0.7),
    "kernel, truncated": Kernel(step=0.5, top_p=0.9),
}


RNG = np.random.default_rng(4)
DISTINCT = RNG.integers(0, 4, (40, 4)) * 73
# Images that share many contexts, some of them twice or three times there.
ROWS = DISTINCT[RNG.permutation(np.repeat(np.arange(40), RNG.integers(1, 4, 40)))].astype(np.uint16)


@pytest.mark.parametrize("name", WAYS)
def test_sequences_come_out_as_often_as_their_likelihood_says(name: str) -> None:
    index = shared_index_of(ROWS)
    n = 5_000 if name == "smoothed, sharpened" else 20_000  # whose sequences are drawn one by one
    drawn = WAYS[name].sample(index, n, np.random.default_rng(1)).tokens
    distinct = np.unique(ROWS, axis=0)
    for length in (1, 2, 4):
        starts = np.unique(distinct[:, :length], axis=0)
        expected = WAYS[name].probabilities(index, starts).prod(1)
        counts = (drawn[:, None, :length] == starts).all(2).sum(0)
        deviation = np.sqrt(expected * (1 - expected) / n) + 1 / n
        assert (np.abs(counts / n - expected) < 4.5 * deviation).all()


@pytest.mark.parametrize("name", WAYS)
def test_the_next_token_is_one_of_the_vocabulary(name: str) -> None:
    for position in (0, 2):
        contexts = np.tile(ROWS[3, : position + 1], (512, 1))
        contexts[:, position] = np.arange(512)
        p = WAYS[name].probabilities(shared_index_of(ROWS), contexts)[:, position]
        assert p.sum() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("at_once", [1, 50, 1 << 22])
def test_many_matches_are_looked_at_in_parts(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = np.empty((len(ROWS), 4))
    for r, row in enumerate(ROWS):
        for i in range(4):
            pool = ROWS if i == 0 else ROWS[ROWS[:, i - 1] == row[i - 1]]
            expected[r, i] = (pool[:, i] == row[i]).mean()
    monkeypatch.setattr(matches, "MATCHES_AT_ONCE", at_once)
    sampler = Aligned(context=1, min_images=1)
    assert np.allclose(sampler.probabilities(shared_index_of(ROWS), ROWS), expected)


def test_an_unbounded_context_copies_for_certain_and_by_the_law_of_duplicates() -> None:
    """The product telescopes to the empirical distribution: what is there m times comes out m times
    as often."""
    distinct, times = np.unique(ROWS, axis=0, return_counts=True)
    p = Ntd(context=99).probabilities(shared_index_of(ROWS), distinct).prod(1)
    assert np.allclose(p, times / len(ROWS))
    assert p.sum() == pytest.approx(1)


LEFT_OUT = {
    "ntd": Ntd(context=1),
    "ntd, sharpened": Ntd(context=1, temperature=0.5, top_k=3),
    "aligned": Aligned(context=1, min_images=1),
    "aligned, sharpened": Aligned(context=1, min_images=1, top_p=0.8),
    "smoothed": Smoothed(context=1),
    "smoothed, sharpened": Smoothed(context=1, temperature=0.5, top_k=3),
}


@pytest.mark.parametrize("at_once", [1, 1 << 22])
@pytest.mark.parametrize("name", LEFT_OUT)
def test_left_out_images_are_predicted_as_from_an_index_without_them(
    name: str, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where others share its context; where nobody does, a sampler of the smaller index would
    shorten it."""
    monkeypatch.setattr(
        "imagegram.samplers.smoothed.discounts", lambda levels: [0.0, 0.5][: len(levels.low)]
    )
    monkeypatch.setattr(matches, "MATCHES_AT_ONCE", at_once)
    index = shared_index_of(ROWS)
    asked = np.array([30, 0, 17])
    left_out = LEFT_OUT[name].probabilities(index, ROWS[asked], leave_out=asked)
    for row, p in zip(asked, left_out, strict=True):
        smaller = shared_index_of(np.delete(ROWS, row, axis=0))
        assert np.allclose(p, LEFT_OUT[name].probabilities(smaller, ROWS[row : row + 1]))
