"""Every metric of a night, in one table: what it means, its unit, what is better, and where it is
computed.

The columns of the page, the lines of the terminal and the words of the README come from here. A
metric is computed for generated and for held-out real images alike; the latter have what a perfect
sampler would.
"""

import re
from dataclasses import dataclass
from typing import Any

from imagegram.metrics.intervals import Figure, number_text

# One more with every change of the code that changes a figure, or a classifier that is kept for
# them: all that was measured before is then measured anew.
FIGURES_VERSION = 2
Figures = dict[str, Any]  # those of one set of images, by the keys of their metrics


@dataclass(frozen=True)
class Metric:
    """What is known of a figure in report.json besides its value."""

    key: str
    title: str
    unit: str
    """of `number_text`: "%" of a share, "p" of a probability however small, "g" of any size"""
    better: str  # what a good sampler has
    where: str  # MODULE.FUNCTION of imagegram.metrics that computes it
    help: str
    cite: str

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
        if figure is None:
            return "-", ""
        return figure.value_text(self.unit), figure.interval_text(self.unit)

    def text(self, figures: Figures) -> str:
        """The same in one line."""
        value, interval = self.cell(figures)
        return f"{value} ({interval})" if interval else value


class Extraction(Metric):
    """A chance for every length of a beginning: shown is that after half an image, the longest."""

    def of(self, figures: Figures) -> Figure | None:
        return self._last(figures, "training")

    def cell(self, figures: Figures) -> tuple[str, str]:
        real = self._last(figures, "held_out")
        beside = f"held out: {number_text(real.value, self.unit)}" if real else ""
        return super().cell(figures)[0], beside

    def _last(self, figures: Figures, who: str) -> Figure | None:
        chances: list[Figure] = list(figures.get(self.key, {}).get(who, {}).values())
        return chances[-1] if chances else None


def _metrics(text: str) -> tuple[Metric, ...]:
    """The metrics of a table: key | title | unit | what is better (as for real images) | where it
    is computed (copying.describe); below, indented: help | source."""
    found = []
    for entry in re.split(r"\n(?! )", text.strip()):
        row, _, below = entry.partition("\n")
        cells = [cell.strip() for cell in row.split("|")]
        key, title, unit, better, where = cells + [""] * (5 - len(cells))
        words, _, cite = " ".join(below.split()).partition(" | ")
        kind = Extraction if key == "extraction" else Metric
        better, where = better or "as for real images", where or "copying.describe"
        found.append(kind(key, title, unit, better, where, words, cite))
    return tuple(found)


# What the answer speaks of comes first: later columns may lie beyond the edge of a screen.
METRICS = _metrics("""
exact_copy_probability | P(exact copy) | p | lower, as for real images | exact.exact_figures
    the exact probability that a drawn sequence equals a training sequence, from the sampler's
    likelihood
closer_than_held_out | P(closer) | | 0.5 | intervals.probability_closer
    probability of lying closer to the training set than a held-out real image does; 1 for a
    copier | Mann & Whitney, 1947; Meehan et al., 2020
coherence | coherence | | 1 | coherence.Classifiers
    classifiers' mean score of the decoded images, scaled so that held-out real images have 1
    and images of independently drawn tokens 0; above 1 the classifiers are surer than of real
    images: typical rather than diverse
held_out_bits | held-out bits | | lower | exact.exact_figures
    bits that the sampler needs for a token of held-out real images
training_bits | training bits | | as the held-out bits | exact.exact_figures
    the same of training images: the less than the held-out bits, the more the sampler knows
    them by heart
left_out_bits | left-out bits | | lower | exact.exact_figures
    the same of training images, each left out of the index while it is asked about
extraction | extraction | p | as of held-out images | exact.extraction
    the chance that the rest of a training image follows after its first half (8 tokens of 16),
    exactly; below, the same of held-out images | Carlini et al., 2021
exact_copies | exact copies | % | lower, as for real images
    share of sequences equal to a training sequence
shifted_copies | shifted | % | lower, as for real images
    half the tokens or more copied in one run to another position
mosaics | mosaics | % | lower, as for real images
    half the tokens or more in copied runs of at least four: patches of several training images,
    joined | Kamb & Ganguli, 2024
novel | novel | % | higher, as for real images
    none of these
longest_run | longest run
    mean longest run of tokens in one training image, at any position
pieces | pieces
    mean number of runs that a sequence can be put together from, at least
copied_share | copied share | %
    mean share of the tokens in copied runs of four
nearest_distance | nearest
    mean number of tokens that differ from the nearest training sequence
closer_in_codes | P(closer), codes | | 0.5 | intervals.probability_closer
    P(closer) by the distance of the codes, for which a token can be nearly another |
    Mann & Whitney, 1947; Meehan et al., 2020
nearest_in_codes | nearest, codes
    mean squared distance to the nearest training image
f_mem | f_mem | % | lower, as for real images
    share of images less than a third as far from the nearest training image as from the second
    nearest; of tokens in codes | Yoon et al., 2023
density | density | | 1 | coherence.Classifiers
    how crowded with held-out real images the places of the generated ones are |
    Naeem et al., 2020
coverage | coverage | % | | coherence.Classifiers
    share of held-out real images with a generated one near them | Naeem et al., 2020
""")
# Measured beside a night, by nearest.memorization_figures: a copier of a fifth passes all but the
# last of them.
OTHERS = _metrics("""
c_t | C_T | | 0 | nearest.data_copying
    the Mann-Whitney statistic of P(closer) as a z-score, of tokens in codes, the mean over
    classes (of pictures cells of k-means): far below 0 copies, far above lies further away than
    real images | Mann & Whitney, 1947; Meehan et al., 2020
authentic | AuthPct | % | | nearest.authentic
    share of images further from the nearest training image, of tokens in codes, than that is
    from its own | Alaa et al., 2022
near_copies | near-copies | % | lower, as for real images | nearest.near_copies
    share of sequences whose every token is within one level of every digit of one training
    image's | Ippolito et al., 2023
""")
# Of a sampler that is asked about sequences which it did not draw (own_tokens.py), and of pictures.
_APART = _metrics("""
sample_bits | these samples' bits | | as the held-out bits | own_tokens.measure_tokens
    bits that the sampler needs for a token of the sequences that were given
near_duplicates | near-duplicates | % | lower, as for real images | sets.near_duplicates
    share of images that are nearly a training image: perceptual hashes 4 bits apart, pixels 16
    of 255, at most | Zauner, 2010
calibrated | calibrated | % | lower, as for real images | sets.measure_space
    share of images less than half as far from the nearest training image as from its 50 nearest
    on average | Carlini et al., 2023
precision | precision | % | | sets.Compared
    share of images with a held-out real one whose neighbourhood they are in |
    Kynkäänniemi et al., 2019
recall | recall | % | | sets.Compared
    share of held-out real images in the neighbourhood of one of these |
    Kynkäänniemi et al., 2019
fd | FD | g | lower, as for real images | sets.frechet
    Fréchet distance to held-out real images, on principal components; biased upward, alike in
    both columns | Heusel et al., 2017
kid | KID | g | 0, as for real images | sets.Compared
    squared maximum mean discrepancy to held-out real images, cubic kernel, without bias |
    Binkowski et al., 2018
rke | RKE | g | | sets.Compared
    how many modes the images have: the Rényi kernel entropy of order 2, as a number |
    Jalali et al., 2023
""")
BY_KEY = {metric.key: metric for metric in (*METRICS, *OTHERS, *_APART)}
# Of pictures in any feature space (sets.py): what a generator that nobody has the tokens of can be
# asked.
_COPIED = "near_duplicates calibrated f_mem closer_than_held_out c_t authentic"
_LIKE = "precision recall density coverage fd kid rke"
SETS = tuple(BY_KEY[key] for key in f"{_COPIED} {_LIKE}".split())
EXACT_COPY_PROBABILITY = BY_KEY["exact_copy_probability"]
EXACT_COPIES = BY_KEY["exact_copies"]
CLOSER = BY_KEY["closer_than_held_out"]
CLOSER_IN_CODES = BY_KEY["closer_in_codes"]
COHERENCE = BY_KEY["coherence"]
# In report.json and the CSV alone, and no columns of the page.
_HIDDEN = ("left_out_bits", "pieces", "copied_share", "nearest_in_codes")
COLUMNS = tuple(metric for metric in METRICS if metric.key not in _HIDDEN)
IN_SHORT = (EXACT_COPY_PROBABILITY, EXACT_COPIES, CLOSER, COHERENCE)  # what a night ends with
