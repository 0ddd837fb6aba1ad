"""Every metric of a night, in one table: where it is computed, its title, what it means, its unit,
what is better.

The columns of the page, the lines of the terminal and the words of the README come from here. A
metric is computed for generated and for held-out real images alike; the latter have what a perfect
sampler would.
"""

from dataclasses import dataclass, replace
from typing import Any

from imagegram.metrics.intervals import Figure, number_text

# One more with every change of the code that changes a figure, or a classifier that is kept for
# them: all that was measured before is then measured anew.
FIGURES_VERSION = 2
Figures = dict[str, Any]  # those of one set of images, by the keys of their metrics


LIKE_REAL = "as for real images"
LOWER = "lower, as for real images"
MEEHAN = "Mann & Whitney, 1947; Meehan et al., 2020"
NAEEM = "Naeem et al., 2020"
KYNKAANNIEMI = "Kynkäänniemi et al., 2019"


@dataclass(frozen=True)
class Metric:
    """What is known of a figure in report.json besides its value."""

    key: str
    title: str
    help: str
    better: str = LIKE_REAL  # what a good sampler has
    where: str = "copying.describe"  # MODULE.FUNCTION of imagegram.metrics that computes it
    unit: str = ""
    """of `number_text`: "%" of a share, "p" of a probability however small, "g" of any size"""
    cite: str = ""
    shown: bool = True  # as a column of the page; else in report.json and the CSV alone

    @property
    def meaning(self) -> str:
        """The help with what is better and the source, for a reader of the page."""
        return f"{self.help} ({'; '.join(filter(None, [f'better: {self.better}', self.cite]))})"

    def of(self, figures: Figures) -> Figure | None:
        """This figure among others; None where it was not measured, or cannot be told."""
        return figures.get(self.key)

    def cell(self, figures: Figures) -> tuple[str, str]:
        """The value and its interval, as text; a dash where the figure does not apply."""
        if images := figures.get("cannot_be_told", {}).get(self.key):
            return "cannot be told", f"from {images} image{'s' * (images > 1)}"
        figure = self.of(figures)
        return (
            (figure.value_text(self.unit), figure.interval_text(self.unit)) if figure else ("-", "")
        )

    def text(self, figures: Figures) -> str:
        """The same in one line."""
        value, interval = self.cell(figures)
        return f"{value} ({interval})" if interval else value


class Extraction(Metric):
    """A chance for every length of a beginning: shown is that after half an image, which is the
    longest."""

    def of(self, figures: Figures) -> Figure | None:
        if self.key not in figures:
            return None
        chances: list[Figure] = list(figures[self.key]["training"].values())
        return chances[-1]

    def cell(self, figures: Figures) -> tuple[str, str]:
        figure = self.of(figures)
        if figure is None:
            return "-", ""
        real: list[Figure] = list(figures[self.key].get("held_out", {}).values())
        below = f"held out: {number_text(real[-1].value, self.unit)}" if real else ""
        return figure.value_text(self.unit), below


EXACT_COPY_PROBABILITY = Metric(
    "exact_copy_probability",
    "P(exact copy)",
    "the exact probability that a drawn sequence equals a training sequence, from the sampler's "
    "likelihood",
    LOWER,
    "exact.exact_figures",
    unit="p",
)
CLOSER = Metric(
    "closer_than_held_out",
    "P(closer)",
    "probability of lying closer to the training set than a held-out real image does; 1 for a "
    "copier",
    "0.5",
    "intervals.probability_closer",
    cite=MEEHAN,
)
COHERENCE = Metric(
    "coherence",
    "coherence",
    "classifiers' mean score of the decoded images, scaled so that held-out real images have 1 "
    "and images of independently drawn tokens 0; above 1 the classifiers are surer than of real "
    "images: typical rather than diverse",
    "1",
    "coherence.Classifiers",
)
EXACT_COPIES = Metric(
    "exact_copies",
    "exact copies",
    "share of sequences equal to a training sequence",
    LOWER,
    unit="%",
)
HELD_OUT_BITS = Metric(
    "held_out_bits",
    "held-out bits",
    "bits that the sampler needs for a token of held-out real images",
    "lower",
    "exact.exact_figures",
)
CLOSER_IN_CODES = Metric(
    "closer_in_codes",
    "P(closer), codes",
    "P(closer) by the distance of the codes, for which a token can be nearly another",
    "0.5",
    "intervals.probability_closer",
    cite=MEEHAN,
)

METRICS = (  # what the answer speaks of first: later ones may lie beyond the edge of a screen
    EXACT_COPY_PROBABILITY,
    CLOSER,
    COHERENCE,
    HELD_OUT_BITS,
    Metric(
        "training_bits",
        "training bits",
        "the same of training images: the less than the held-out bits, the more the sampler knows "
        "them by heart",
        "as the held-out bits",
        "exact.exact_figures",
    ),
    Metric(
        "left_out_bits",
        "left-out bits",
        "the same of training images, each left out of the index while it is asked about",
        "lower",
        "exact.exact_figures",
        shown=False,
    ),
    Extraction(
        "extraction",
        "extraction",
        "the chance that the rest of a training image follows after its first half (8 tokens of "
        "16), exactly; below, the same of held-out images",
        "as of held-out images",
        "exact.extraction",
        unit="p",
        cite="Carlini et al., 2021",
    ),
    EXACT_COPIES,
    Metric(
        "shifted_copies",
        "shifted",
        "half the tokens or more copied in one run to another position",
        LOWER,
        unit="%",
    ),
    Metric(
        "mosaics",
        "mosaics",
        "half the tokens or more in copied runs of at least four: patches of several training "
        "images, joined",
        LOWER,
        unit="%",
        cite="Kamb & Ganguli, 2024",
    ),
    Metric("novel", "novel", "none of these", "higher, as for real images", unit="%"),
    Metric(
        "longest_run",
        "longest run",
        "mean longest run of tokens in one training image, at any position",
    ),
    Metric(
        "pieces",
        "pieces",
        "mean number of runs that a sequence can be put together from, at least",
        shown=False,
    ),
    Metric(
        "copied_share",
        "copied share",
        "mean share of the tokens in copied runs of four",
        unit="%",
        shown=False,
    ),
    Metric(
        "nearest_distance",
        "nearest",
        "mean number of tokens that differ from the nearest training sequence",
    ),
    CLOSER_IN_CODES,
    Metric(
        "nearest_in_codes",
        "nearest, codes",
        "mean squared distance to the nearest training image",
        shown=False,
    ),
    Metric(
        "f_mem",
        "f_mem",
        "share of images less than a third as far from the nearest training image as from the "
        "second nearest; of tokens in codes",
        LOWER,
        unit="%",
        cite="Yoon et al., 2023",
    ),
    Metric(
        "density",
        "density",
        "how crowded with held-out real images the places of the generated ones are",
        "1",
        "coherence.Classifiers",
        cite=NAEEM,
    ),
    Metric(
        "coverage",
        "coverage",
        "share of held-out real images with a generated one near them",
        where="coherence.Classifiers",
        unit="%",
        cite=NAEEM,
    ),
)
# Measured beside a night, by nearest.memorization_figures: a copier of a fifth passes all but the
# last of them.
OTHERS = (
    Metric(
        "c_t",
        "C_T",
        "the Mann-Whitney statistic of P(closer) as a z-score, of tokens in codes, the mean over "
        "classes (of pictures cells of k-means): far below 0 copies, far above lies further away "
        "than real images",
        "0",
        "nearest.data_copying",
        cite=MEEHAN,
    ),
    Metric(
        "authentic",
        "AuthPct",
        "share of images further from the nearest training image, of tokens in codes, than that "
        "is from its own",
        where="nearest.authentic",
        unit="%",
        cite="Alaa et al., 2022",
    ),
    Metric(
        "near_copies",
        "near-copies",
        "share of sequences whose every token is within one level of every digit of one training "
        "image's",
        LOWER,
        "nearest.near_copies",
        unit="%",
        cite="Ippolito et al., 2023",
    ),
)
# Of a sampler that is asked about sequences which it did not draw (own_tokens.py).
SAMPLE_BITS = Metric(
    "sample_bits",
    "these samples' bits",
    "bits that the sampler needs for a token of the sequences that were given",
    "as the held-out bits",
    "own_tokens.measure_tokens",
)
BY_KEY = {metric.key: metric for metric in (*METRICS, *OTHERS)}
# Of pictures in any feature space (sets.py): what a generator that nobody has the tokens of can be
# asked.
SETS = (
    Metric(
        "near_duplicates",
        "near-duplicates",
        "share of images that are nearly a training image: perceptual hashes 4 bits apart, pixels "
        "16 of 255, at most",
        *(LOWER, "sets.near_duplicates", "%", "Zauner, 2010"),
    ),
    Metric(
        "calibrated",
        "calibrated",
        "share of images less than half as far from the nearest training image as from its 50 "
        "nearest on average",
        *(LOWER, "sets.measure_space", "%", "Carlini et al., 2023"),
    ),
    BY_KEY["f_mem"],
    replace(CLOSER, title="P(closer)"),
    BY_KEY["c_t"],
    BY_KEY["authentic"],
    Metric(
        "precision",
        "precision",
        "share of images with a held-out real one whose neighbourhood they are in",
        *(LIKE_REAL, "sets.Compared", "%", KYNKAANNIEMI),
    ),
    Metric(
        "recall",
        "recall",
        "share of held-out real images in the neighbourhood of one of these",
        *(LIKE_REAL, "sets.Compared", "%", KYNKAANNIEMI),
    ),
    BY_KEY["density"],
    BY_KEY["coverage"],
    Metric(
        "fd",
        "FD",
        "Fréchet distance to held-out real images, on principal components; biased upward, alike "
        "in both columns",
        *(LOWER, "sets.frechet", "g", "Heusel et al., 2017"),
    ),
    Metric(
        "kid",
        "KID",
        "squared maximum mean discrepancy to held-out real images, cubic kernel, without bias",
        *("0, as for real images", "sets.Compared", "g", "Binkowski et al., 2018"),
    ),
    Metric(
        "rke",
        "RKE",
        "how many modes the images have: the Rényi kernel entropy of order 2, as a number",
        *(LIKE_REAL, "sets.Compared", "g", "Jalali et al., 2023"),
    ),
)
COLUMNS = tuple(metric for metric in METRICS if metric.shown)
IN_SHORT = (EXACT_COPY_PROBABILITY, EXACT_COPIES, CLOSER, COHERENCE)  # what a night ends with
