"""The rule that picks the best run: neither a copier nor incoherent."""

from pathlib import Path

import pytest

from imagegram.metrics.intervals import Figure
from imagegram.metrics.registry import CLOSER, COHERENCE, EXACT_COPIES, EXACT_COPY_PROBABILITY
from imagegram.report.verdict import Run, answer, best_of
from imagegram.samplers import SAMPLERS
from imagegram.samplers.draw import Draw


def run(name: str, copies: float, closer: float | None, coherence: float | None, method: str = "aligned") -> Run:
    """A run of which these figures are known."""
    known = {EXACT_COPIES.key: copies, CLOSER.key: closer, COHERENCE.key: coherence}
    figures = {key: Figure(value, value, value) for key, value in known.items() if value is not None}
    return Run(name, Draw(SAMPLERS[method]()), Path(name), figures)


def best(*runs: Run) -> str:
    chosen = best_of(list(runs))
    assert chosen
    return chosen.name


def test_the_most_coherent_run_that_does_not_copy_is_the_best() -> None:
    assert best(run("far", 0, 0.5, 0.8), run("good", 0, 0.55, 0.9), run("near", 0, 0.9, 1.0)) == "good"


def test_of_equally_coherent_runs_the_one_as_far_from_training_images_as_real_ones_is_the_best() -> None:
    surest = run("near", 0, 0.6, 1.0)
    surest.figures[COHERENCE.key] = Figure(1.0, 0.93, 1.07)
    assert best(surest, run("like real", 0, 0.49, 0.97), run("less coherent", 0, 0.5, 0.92)) == "like real"


def test_independent_tokens_are_never_the_best_where_something_is_coherent() -> None:
    assert best(run("unigram", 0, 0.19, -0.07), run("aligned", 0, 0.8, 0.6)) == "aligned"
    assert best(run("unigram", 0, 0.45, -0.07), run("single", 0.7, 0.98, 0.9)) == "single"
    assert best(run("half coherent", 0, 0.5, 0.49), run("copier", 0.7, 0.98, 0.5)) == "copier"


@pytest.mark.parametrize(
    ("copies", "closer", "fulfilled"),
    [
        (0.01, 0.5, True),
        (0.011, 0.5, False),
        (0, 0.65, True),
        (0, 0.66, False),
        (0, 0.3, True),
        (0, 0.29, False),
    ],
)
def test_copies_and_closeness_have_limits(copies: float, closer: float, fulfilled: bool) -> None:
    assert (best(run("asked", copies, closer, 0.9), run("plain", 0, 0.5, 0.6)) == "asked") == fulfilled


def test_where_all_copy_the_best_copies_least() -> None:
    assert best(run("two", 0.4, 0.8, 0.9), run("ten", 1.0, 1.0, 1.0)) == "two"


def first_line(*runs: Run) -> str:
    return answer(list(runs), 64)[0]


def test_the_first_line_says_yes_or_no() -> None:
    assert first_line(run("a", 0, 0.5, 1.0)).startswith("Yes: n-grams can generate")
    assert first_line(run("a", 0, 0.5, 0.3)).startswith("No: no sampler makes coherent images;")
    assert first_line() == "No sampler is finished."
    clearly = run("a", 0, 0.5, None)
    clearly.figures[COHERENCE.key] = Figure(0.7, 0.43, 0.98)
    assert "clearly less coherent than real ones" in first_line(clearly)
    clearly.figures[COHERENCE.key] = Figure(0.7, 0.43, 1.0)
    assert first_line(clearly).startswith("Yes:")


def test_without_coherence_nothing_is_the_best() -> None:
    few = run("a", 0, 0.5, None)
    assert best_of([few]) is None
    assert first_line(few) == (
        "It cannot be told whether n-grams can generate these images: the coherence of their images was not measured."
    )
    few.figures["cannot_be_told"] = {COHERENCE.key: 5}
    assert "coherence cannot be told from 5 decoded images" in first_line(few)
    assert COHERENCE.text(few.figures) == "cannot be told (from 5 images)"


def test_the_answer_says_what_keeps_the_best_from_being_like_real_images() -> None:
    few = run("few", 0, 0.46, 0.99)
    few.figures[EXACT_COPIES.key] = Figure(0, 0, 0.057)  # of 64 sequences
    for closer, said in ((0.46, "copies more often than one in 100,"), (0.8, "nearer to"), (0.2, "further from")):
        few.figures[CLOSER.key] = Figure(closer, closer, closer)
        assert said in first_line(few)
        assert first_line(few).startswith("No:")
    few.figures[CLOSER.key] = Figure(0.46, 0.2, 0.7)
    few.figures[EXACT_COPY_PROBABILITY.key] = Figure(5e-8, 1e-8, 1e-7)
    few.figures[COHERENCE.key] = Figure(0.99, 0.9, 1.1)
    assert first_line(few).startswith("Yes:")


def test_missing_figures_do_no_harm() -> None:
    assert best(run("a", 0, None, None), run("c", 0, 0.5, 0.9, "kernel")) == "c"
    assert best_of([]) is None
