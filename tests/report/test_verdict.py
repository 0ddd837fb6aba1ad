"""The rule that picks the best run: neither a copier nor chaos."""

from pathlib import Path

import pytest

from imagegram.report.answer import answer
from imagegram.report.verdict import COLUMNS, Run, best_of
from imagegram.samplers import SAMPLERS
from imagegram.samplers.draw import Draw


def run(name: str, copies: float, closer: float | None, coherence: float | None, method: str = "aligned") -> Run:
    """A run of which these figures are known."""
    figures = {"exact_copies": {"value": copies, "low": copies, "high": copies}}
    if closer is not None:
        figures["closer_than_held_out"] = {"value": closer, "low": closer, "high": closer}
    if coherence is not None:
        figures["coherence"] = {"value": coherence, "low": coherence, "high": coherence}
    return Run(name, Draw(SAMPLERS[method]()), Path(name), figures)


def best(*runs: Run) -> str:
    chosen = best_of(list(runs))
    assert chosen
    return chosen.name


def test_the_most_coherent_run_that_does_not_copy_is_the_best() -> None:
    assert best(run("far", 0, 0.5, 0.8), run("good", 0, 0.55, 0.9), run("near", 0, 0.9, 1.0)) == "good"


def test_of_equally_coherent_runs_the_one_as_far_from_training_images_as_real_ones_is_the_best() -> None:
    surest = run("near", 0, 0.6, 1.0)
    surest.figures["coherence"]["low"] = 0.93
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


def test_the_answer_says_what_keeps_the_best_from_being_like_real_images() -> None:
    few = run("few", 0, 0.46, 0.99)
    few.figures["exact_copies"]["high"] = 0.057  # of 64 sequences
    for closer, said in ((0.46, "may copy more than one image in 100:"), (0.8, "nearer to"), (0.2, "further from")):
        few.figures["closer_than_held_out"] = {"value": closer, "low": closer, "high": closer}
        assert said in answer([few], {}, 64)[0]
    few.figures["closer_than_held_out"]["value"] = 0.46
    few.figures["exact_copy_probability"] = {"value": 5e-8, "low": 1e-8, "high": 1e-7}
    assert "is most like real images" in answer([few], {}, 64)[0]


def test_missing_figures_do_no_harm() -> None:
    assert best(run("a", 0, None, None), run("c", 0, 0.5, 0.9, "kernel")) == "c"
    assert best_of([]) is None


def test_cells_show_small_probabilities_and_dashes() -> None:
    column = next(column for column in COLUMNS if column.small)
    assert column.cell({column.key: {"value": 7.2e-10, "low": 7e-10, "high": 8e-10}}) == ("7.2e-10", "7e-10 to 8e-10")
    assert column.cell({}) == ("-", "")


def test_extraction_is_shown_after_the_first_half_beside_that_of_held_out_images() -> None:
    column = next(column for column in COLUMNS if column.key == "extraction")
    chances = {"1": {"value": 1e-9}, "8": {"value": 7.8e-5}}
    figure = {"training": chances, "held_out": {"1": {"value": 1e-12}, "8": {"value": 8.8e-10}}}
    assert column.cell({"extraction": figure}) == ("7.8e-05", "held out: 9e-10")
    assert column.cell({"extraction": {"training": chances}}) == ("7.8e-05", "")
