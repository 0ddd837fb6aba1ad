"""The first lines of the page: yes or no, and why (the rule itself: tests/metrics/test_rule.py)."""

from pathlib import Path

from imagegram.metrics.intervals import Figure
from imagegram.metrics.registry import CLOSER, COHERENCE, EXACT_COPIES, EXACT_COPY_PROBABILITY
from imagegram.report.verdict import Run, answer, best_of
from imagegram.samplers import Aligned
from imagegram.samplers.draw import Draw
from tests.support.metrics import figures_of


def run(name: str, copies: float, closer: float | None, coherence: float | None) -> Run:
    """A run of which these figures are known."""
    return Run(name, Draw(Aligned()), Path(name), figures_of(copies, closer, coherence))


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
    unknown = "It cannot be told whether n-grams can generate these images: "
    assert first_line(few) == f"{unknown}the coherence of their images was not measured."
    said = "that takes 40 real images that are held out, and here are 27"
    assert said in answer([few], 64, held_out=27)[0]
    few.figures["cannot_be_told"] = {COHERENCE.key: 5}
    assert "coherence cannot be told from 5 decoded images" in first_line(few)
    assert COHERENCE.text(few.figures) == "cannot be told (from 5 images)"


def test_the_answer_says_what_keeps_the_best_from_being_like_real_images() -> None:
    few = run("few", 0, 0.46, 0.99)
    few.figures[EXACT_COPIES.key] = Figure(0, 0, 0.057)  # of 64 sequences
    for closer, said in (
        (0.46, "copies more often than one in 100:"),
        (0.8, "nearer to"),
        (0.2, "further from"),
    ):
        few.figures[CLOSER.key] = Figure(closer, closer, closer)
        assert said in first_line(few)
        assert first_line(few).startswith("No:")
    copier = first_line(run("a", 0.72, 0.98, 1.0))
    assert "copies of training images in 72% of all cases: those of a" in copier
    few.figures[CLOSER.key] = Figure(0.46, 0.2, 0.7)
    few.figures[EXACT_COPY_PROBABILITY.key] = Figure(5e-8, 1e-8, 1e-7)
    few.figures[COHERENCE.key] = Figure(0.99, 0.9, 1.1)
    assert first_line(few).startswith("Yes:")
