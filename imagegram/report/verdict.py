"""The runs on the page: their columns, and the rule that picks the best."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imagegram.samplers.draw import Draw


@dataclass(frozen=True)
class Column:
    """A figure of report.json in the table of the page."""

    key: str
    title: str
    help: str
    percent: bool = False
    small: bool = False  # may be many orders of magnitude below 1

    def cell(self, figures: dict[str, dict[str, Any]]) -> tuple[str, str]:
        """The value and its interval, as text; dashes where the figure does not apply."""
        if self.key not in figures:
            return "-", ""
        if self.key == "extraction":
            return _extraction(figures[self.key])
        value, low, high = (figures[self.key][k] * (100 if self.percent else 1) for k in ("value", "low", "high"))
        if self.small:
            return f"{value:.2g}", "exact" if low == high else f"{low:.1g} to {high:.1g}"
        return (
            (f"{value:.1f} %", f"{low:.1f} to {high:.1f}")
            if self.percent
            else (f"{value:.2f}", f"{low:.2f} to {high:.2f}")
        )


def _extraction(figure: dict[str, Any]) -> tuple[str, str]:
    """The chance that the rest of an image follows its first half, of training images and, below, of held-out ones."""
    rest = {who: list(chances.values())[-1]["value"] for who, chances in figure.items()}  # after 1, 2, 4, ... tokens
    return f"{rest['training']:.2g}", f"held out: {rest['held_out']:.1g}" if "held_out" in rest else ""


COLUMNS = (  # what the answer speaks of first: later ones may lie beyond the edge of a screen
    Column(
        "exact_copy_probability",
        "P(exact copy)",
        "the exact probability that a drawn sequence equals a training sequence, from the sampler's likelihood",
        small=True,
    ),
    Column(
        "closer_than_held_out",
        "P(closer)",
        "probability of lying closer to the training set than a held-out real image does; 0.5 is ideal, 1 a copier",
    ),
    Column(
        "coherence",
        "coherence",
        "judges' mean score of the decoded images, scaled so that held-out real images have 1 and images of "
        "independently drawn tokens 0; above 1 the judges are surer than of real images: typical rather than diverse",
    ),
    Column(
        "held_out_bits",
        "held-out bits",
        "bits that the sampler needs for a token of held-out real images: lower is a better model of them",
    ),
    Column(
        "training_bits",
        "training bits",
        "the same of training images: the less than the held-out bits, the more the sampler knows them by heart",
    ),
    Column(
        "extraction",
        "extraction",
        "the chance that the rest of a training image follows after its first half (8 tokens of 16), exactly; "
        "below, the same of held-out images (Carlini et al., 2021)",
    ),
    Column("exact_copies", "exact copies", "share of sequences equal to a training sequence", percent=True),
    Column("shifted_copies", "shifted", "half the tokens or more copied in one run to another position", percent=True),
    Column(
        "mosaics",
        "mosaics",
        "half the tokens or more in copied runs of at least four: patches of several training images, joined",
        percent=True,
    ),
    Column("novel", "novel", "none of these", percent=True),
    Column(
        "longest_run", "longest run", "mean longest run of tokens that stands in one training image, at any position"
    ),
    Column("nearest_distance", "nearest", "mean number of tokens that differ from the nearest training sequence"),
    Column(
        "closer_in_codes",
        "P(closer), codes",
        "the same by the distance of the codes, for which a token can be nearly another",
    ),
    Column(
        "c_t",
        "C_T",
        "the Mann-Whitney statistic of P(closer) in codes as a z-score, the mean over classes (Meehan et al., 2020): "
        "far below 0 copies, far above lies further away than real images",
    ),
    Column(
        "f_mem",
        "f_mem",
        "share of sequences less than a third as far from the nearest training image as from the second nearest, in "
        "codes (Yoon et al., 2023)",
        percent=True,
    ),
    Column(
        "authentic",
        "AuthPct",
        "share of sequences further from the nearest training image, in codes, than that is from its own nearest one "
        "(Alaa et al., 2022)",
        percent=True,
    ),
    Column(
        "near_copies",
        "near-copies",
        "share of sequences whose every token is within one level of every digit of one training image's",
        percent=True,
    ),
    Column("density", "density", "how crowded with held-out real images the places of the generated ones are"),
    Column("coverage", "coverage", "share of held-out real images with a generated one near them"),
)


MOST_COPIES = 0.01  # share of exact copies, the upper end of its interval
MOST_CLOSER = 0.65  # P(closer): above, images lie nearer to the training set than real ones do
LEAST_CLOSER = 0.3  # below, they lie much further away: chaos
LEAST_COHERENCE = 0.5  # halfway from independent tokens to real images


@dataclass
class Run:
    """A finished folder of generated images on the page."""

    name: str
    draw: Draw
    path: Path
    figures: dict[str, Any]

    @property
    def settings(self) -> str:
        return self.draw.describe()

    @property
    def how(self) -> str:
        """What it does, as a sentence without its full stop."""
        return self.draw.sampler.how

    def copies_no_more_than_control(self) -> bool:
        """Whether it keeps as far from the training images as held-out real images do, and no further."""
        if "closer_than_held_out" not in self.figures:
            return False
        closer = self.figures["closer_than_held_out"]["value"]
        return self.copies_at_most() <= MOST_COPIES and LEAST_CLOSER <= closer <= MOST_CLOSER

    def copies_at_most(self) -> float:
        """The share of exact copies that it may make at most (95 %): by their probability where that is known, since
        few sequences say little."""
        return float(self.figures.get("exact_copy_probability", self.figures["exact_copies"])["high"])

    def coherence(self) -> float:
        """The coherence of its images; 0, that of independent tokens, where it was not measured."""
        return float(self.figures.get("coherence", {"value": 0.0})["value"])


def best_of(runs: list[Run]) -> Run | None:
    """The run most like real images: of those that do not copy and are about as coherent as any of them (within the
    95 % interval of the most coherent one), the one whose P(closer) is nearest to 0.5.

    Where none is both, the one that copies least of those that are coherent; where none is coherent, the most coherent.
    None where there are no runs.
    """
    coherent = [run for run in runs if run.coherence() >= LEAST_COHERENCE]
    honest = [run for run in coherent if run.copies_no_more_than_control()]
    if honest:
        top = max(honest, key=Run.coherence).figures["coherence"]["low"]
        alike = [run for run in honest if run.coherence() >= top]
        return min(alike, key=lambda run: abs(run.figures["closer_than_held_out"]["value"] - 0.5))
    if coherent:
        return min(coherent, key=lambda run: run.figures["exact_copies"]["value"])
    return max(runs, key=Run.coherence, default=None)
