"""The rule that picks the best sampler: neither a copier nor incoherent."""

import pytest

from imagegram.metrics.intervals import Figure
from imagegram.metrics.registry import (
    CLOSER,
    COHERENCE,
    EXACT_COPIES,
    EXACT_COPY_PROBABILITY,
    Figures,
)
from imagegram.metrics.rule import best_of, copies


def figures(
    copies: float, closer: float | None, coherence: float | None, top: float = 0.0
) -> Figures:
    """What is known of a sampler; coherence lies between twice itself less `top`, and `top`."""
    known = {EXACT_COPIES.key: copies, CLOSER.key: closer, COHERENCE.key: coherence}
    told = {key: Figure(value, value, value) for key, value in known.items() if value is not None}
    if coherence is not None and top:
        told[COHERENCE.key] = Figure(coherence, 2 * coherence - top, top)
    return told


@pytest.mark.parametrize(
    ("best", "second", "third"),
    [
        ((0, 0.55, 0.9), (0, 0.5, 0.8), (0, 0.9, 1.0)),  # the most coherent one that does not copy
        # of equally coherent ones the one as far as real
        ((0, 0.49, 0.97), (0, 0.6, 1.0, 1.07), (0, 0.5, 0.92)),
        # independent tokens never, where something is coherent
        ((0, 0.8, 0.6), (0, 0.19, -0.07), (0, 0.45, 0.4)),
        ((0.7, 0.98, 0.9), (0, 0.45, -0.07), (0, 0.5, 0.3)),
        ((0.7, 0.98, 0.5), (0, 0.5, 0.49), (0, 0.5, 0.4)),
        # where all copy, the one that copies least
        ((0.4, 0.8, 0.9), (1.0, 1.0, 1.0), (0.5, 0.9, 1.0)),
        # where none is coherent, the most coherent one
        ((0, 0.1, 0.3), (0, 0.5, 0.2), (0, 0.5, -0.1)),
        ((0, 0.5, 0.9), (0, None, None), (0, 0.5, None)),  # missing figures do no harm
    ],
)
def test_the_best_is_like_real_images(best: tuple, second: tuple, third: tuple) -> None:
    assert (
        best_of({"second": figures(*second), "best": figures(*best), "third": figures(*third)})
        == "best"
    )


@pytest.mark.parametrize(
    ("copied", "closer", "fulfilled"),
    [
        (0.01, 0.5, True),
        (0.011, 0.5, False),
        (0, 0.65, True),
        (0, 0.66, False),
        (0, 0.3, True),
        (0, 0.29, False),
    ],
)
def test_copies_and_closeness_have_limits(copied: float, closer: float, fulfilled: bool) -> None:
    samplers = {"plain": figures(0, 0.5, 0.6), "asked": figures(copied, closer, 0.9)}
    assert (best_of(samplers) == "asked") == fulfilled


def test_the_probability_of_a_copy_counts_before_the_copies_that_were_drawn() -> None:
    few = figures(0, 0.5, 0.9) | {EXACT_COPIES.key: Figure(0, 0, 0.057)}
    assert copies(few)
    assert not copies(few | {EXACT_COPY_PROBABILITY.key: Figure(5e-8, 1e-8, 1e-7)})
    assert copies({})


def test_without_coherence_nothing_is_the_best() -> None:
    assert best_of({"a": figures(0, 0.5, None)}) is None
    assert best_of({}) is None
