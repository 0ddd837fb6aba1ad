"""The rule that picks the best sampler: neither a copier nor incoherent."""

from typing import Any

import pytest

from imagegram.metrics.intervals import Figure
from imagegram.metrics.registry import COHERENCE, EXACT_COPIES, EXACT_COPY_PROBABILITY, Figures
from imagegram.metrics.rule import best_of, copies
from tests.support.metrics import figures_of


def figures(copies: float, closer: Any, coherence: Any, top: float = 0.0) -> Figures:
    """What is known of a sampler; coherence lies between twice itself less `top`, and `top`."""
    told = figures_of(copies, closer, coherence)
    if top:
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
    samplers = {"second": second, "best": best, "third": third}
    assert best_of({name: figures(*known) for name, known in samplers.items()}) == "best"


def test_copies_and_closeness_have_limits() -> None:
    within = [(0.01, 0.5), (0, 0.65), (0, 0.3)]
    beyond = [(0.011, 0.5), (0, 0.66), (0, 0.29)]
    for copied, closer in within + beyond:
        samplers = {"plain": figures(0, 0.5, 0.6), "asked": figures(copied, closer, 0.9)}
        assert (best_of(samplers) == "asked") == ((copied, closer) in within)


def test_the_probability_of_a_copy_counts_before_the_copies_that_were_drawn() -> None:
    few = figures(0, 0.5, 0.9) | {EXACT_COPIES.key: Figure(0, 0, 0.057)}
    assert copies(few)
    assert not copies(few | {EXACT_COPY_PROBABILITY.key: Figure(5e-8, 1e-8, 1e-7)})
    assert copies({})


def test_without_coherence_nothing_is_the_best() -> None:
    assert best_of({"a": figures(0, 0.5, None)}) is None
    assert best_of({}) is None
