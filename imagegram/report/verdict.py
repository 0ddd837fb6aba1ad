"""The runs on the page, and its first lines: yes or no, what was copied, how far from real."""

from dataclasses import dataclass
from pathlib import Path

from imagegram.metrics import rule
from imagegram.metrics.coherence import LEAST
from imagegram.metrics.intervals import Figure
from imagegram.metrics.registry import (
    CLOSER,
    COHERENCE,
    EXACT_COPIES,
    EXACT_COPY_PROBABILITY,
    Figures,
)
from imagegram.samplers.draw import Draw

MANY_COPIES = 0.1  # share of exact copies from which on they are what is wrong


@dataclass
class Run:
    """A finished folder of generated images on the page."""

    name: str
    draw: Draw
    path: Path
    figures: Figures

    @property
    def settings(self) -> str:
        return self.draw.describe()

    @property
    def how(self) -> str:
        """What it does, as a sentence without its full stop."""
        return self.draw.sampler.how


def best_of(runs: list[Run]) -> Run | None:
    """The run most like real images (metrics/rule.py); None where no coherence is known."""
    best = rule.best_of({run.name: run.figures for run in runs})
    return next((run for run in runs if run.name == best), None)


def answer(runs: list[Run], sequences: int, *, held_out: int = LEAST) -> list[str]:
    """Can n-grams generate these images? Yes or no first; four sentences or fewer, from figures of
    finished runs and the number of images that are held out."""
    if not runs:
        return ["No sampler is finished."]
    best = best_of(runs)
    if best is None:
        reason = _why_unknown(runs, held_out)
        return [f"It cannot be told whether n-grams can generate these images: {reason}."]
    scale = "where real images have 1 and independent tokens 0"
    coherence = f"Their coherence is {COHERENCE.text(best.figures)}, {scale}."
    sentences = [_yes_or_no(best, runs), coherence, _copies(best.figures, sequences)]
    if closer := CLOSER.of(best.figures):
        sentences.append(_distance(closer))
    return sentences


def _why_unknown(runs: list[Run], held_out: int) -> str:
    """Why no coherence is known."""
    if held_out < LEAST:
        return f"that takes {LEAST} real images that are held out, and here are {held_out}"
    for run in runs:
        if images := run.figures.get("cannot_be_told", {}).get(COHERENCE.key):
            return f"coherence cannot be told from {images} decoded image{'s' * (images > 1)}"
    return "the coherence of their images was not measured"


def _yes_or_no(best: Run, runs: list[Run]) -> str:
    """The first line, with the best sampler."""
    role = "the best are those of"
    if not rule.is_coherent(best.figures):
        said, role = "No: no sampler makes coherent images", "the most coherent ones are those of"
    elif not rule.is_like_real_images(best.figures):
        said = "No: no sampler makes coherent images that are as new as real ones"
        role = f"the best are {_fault(best.figures)}: those of"
    elif best.figures[COHERENCE.key].high < 1:
        less = "clearly less coherent than real ones"
        said = f"Not quite: n-grams make new images of this kind that are {less}"
    else:
        said = "Yes: n-grams can generate new images of this kind"
    number = f", one of {len(runs)} samplers" if len(runs) > 1 else ""
    return f"{said}; {role} {best.name}{number}."


def _fault(figures: Figures) -> str:
    """Why coherent images are not like real ones all the same."""
    counted = EXACT_COPIES.of(figures)
    if counted and counted.value > MANY_COPIES:
        return f"copies of training images in {counted.value:.0%} of all cases"
    closer = CLOSER.of(figures)
    if closer is None:
        return "not compared with held-out images"
    if closer.value > rule.MOST_CLOSER:
        return "nearer to the training images than real ones"
    if closer.value < rule.LEAST_CLOSER:
        return "further from the training images than real ones"
    return f"perhaps copies more often than one in {1 / rule.MOST_COPIES:.0f}"


def _copies(figures: Figures, sequences: int) -> str:
    counted: Figure = figures[EXACT_COPIES.key]
    count = round(counted.value * sequences)
    words = "None" if count == 0 else f"{count:,}"
    copy = "is an exact copy" if count < 2 else "are exact copies"
    said = f"{words} of its {sequences:,} sequences {copy} of a training image"
    if chance := EXACT_COPY_PROBABILITY.of(figures):
        return f"{said}; the exact probability of one is {chance.value_text('p')}."
    return f"{said} (at most {counted.high:.1%}, 95 %)."


def _distance(closer: Figure) -> str:
    side, than = "nearer to" if closer.value > 0.5 else "further from", "than"
    if closer.includes(0.5):
        side, than = "as far from", "as"
    said = f"Its images lie {side} the training images {than} real images that were held out"
    return f"{said}: P(closer) is {closer}, where real images have 0.5 and copies 1."


def remarks(runs: list[Run], held_out: int) -> list[str]:
    """Why figures are not on the page, or above 1; empty where all are as expected."""
    reasons = []
    missing = "Coherence, density and coverage are missing"
    if not held_out:
        reasons.append("No image is held out, so that nothing can be compared with real images.")
    elif held_out < LEAST:
        reasons.append(f"{missing}: {held_out} images are held out, {LEAST} are needed.")
    elif any("density" not in run.figures for run in runs):
        reasons.append(f"{missing} where no image was decoded.")
    above = [run.name for run in runs if (figure := COHERENCE.of(run.figures)) and figure.value > 1]
    if above:
        reasons.append(
            f"Coherence above 1 ({', '.join(above)}): the classifiers are surer of these images "
            "than of real ones, which is typical images rather than diverse ones, or chance where "
            "the interval includes 1."
        )
    return reasons
