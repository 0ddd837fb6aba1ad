"""The answer at the top of the page: which sampler won, what it copied, how far from real images its own are."""

from typing import Any

from imagegram.report.verdict import LEAST_CLOSER, LEAST_COHERENCE, MOST_CLOSER, MOST_COPIES, Run, best_of


def answer(runs: list[Run], control: dict[str, Any], sequences: int) -> list[str]:
    """Three sentences or fewer, made from the figures of finished runs; `control`: those of held-out images."""
    best = best_of(runs)
    if best is None:
        return ["No sampler is finished."]
    sentences = [_winner(best, runs), _copies(best, sequences)]
    if "closer_than_held_out" in best.figures:
        sentences.append(_distance(best))
    return sentences


def _winner(best: Run, runs: list[Run]) -> str:
    if "coherence" not in best.figures:
        return f"Without the coherence of its images no sampler can be called the best: here is {best.name}."
    coherence = f"coherence {interval(best.figures['coherence'])}, where real images have 1 and chaos has 0"
    if best.copies_no_more_than_control() and best.coherence() >= LEAST_COHERENCE:
        reason = "is most like real images: of those that do not copy, none is clearly more coherent"
    elif best.coherence() >= LEAST_COHERENCE:
        reason = f"copies least of those whose images are coherent{_fault(best)}"
    else:
        reason = "is the most coherent, and none is coherent"
    start = f"Of {len(runs)} samplers, {best.name}" if len(runs) > 1 else f"{best.name}, the only sampler finished,"
    return f"{start} {reason}: {coherence}."


def _fault(best: Run) -> str:
    """Why the best of those that are coherent is not like real images all the same."""
    if "closer_than_held_out" not in best.figures:
        return ""
    closer = best.figures["closer_than_held_out"]["value"]
    if closer > MOST_CLOSER:
        return ", but lies nearer to the training images than real ones"
    if closer < LEAST_CLOSER:
        return ", but lies further from the training images than real ones"
    return f", but may copy more than one image in {1 / MOST_COPIES:.0f}"


def _copies(best: Run, sequences: int) -> str:
    copies = best.figures["exact_copies"]
    count = round(copies["value"] * sequences)
    words = "None" if count == 0 else f"{count:,}"
    copy = "is an exact copy" if count < 2 else "are exact copies"
    said = f"{words} of its {sequences:,} sequences {copy} of a training image"
    if "exact_copy_probability" in best.figures:
        chance = best.figures["exact_copy_probability"]["value"]
        return f"{said}; the exact probability of one is {chance:.2g}."
    return f"{said} (at most {copies['high']:.1%}, 95 %)."


def _distance(best: Run) -> str:
    closer = best.figures["closer_than_held_out"]
    if closer["low"] <= 0.5 <= closer["high"]:
        verdict = "as far from the training images as real images that were held out"
    elif closer["value"] > 0.5:
        verdict = "nearer to the training images than real images that were held out"
    else:
        verdict = "further from the training images than real images that were held out"
    return f"Its images lie {verdict}: P(closer) is {interval(closer)}, where real images have 0.5 and copies 1."


def interval(figure: dict[str, float]) -> str:
    """A figure with its 95 % interval."""
    return f"{figure['value']:.2f} ({figure['low']:.2f} to {figure['high']:.2f})"


def remarks(runs: list[Run], held_out: int, least: int) -> list[str]:
    """Why figures are not on the page, and why some are above 1; empty where all are as expected."""
    reasons = []
    if not held_out:
        reasons.append("No image is held out, so that nothing can be compared with real images.")
    elif any("coherence" not in run.figures for run in runs):
        if held_out < least:
            reasons.append(
                f"Coherence, density and coverage are missing: {held_out} images are held out, {least} are needed."
            )
        else:
            reasons.append("Coherence, density and coverage are missing where no image was decoded.")
    above = [run.name for run in runs if run.coherence() > 1]
    if above:
        reasons.append(
            f"Coherence above 1 ({', '.join(above)}): the judges are surer of these images than of real ones, which "
            "is typical images rather than diverse ones, or chance where the interval includes 1."
        )
    return reasons
