"""How near the kernel n-gram comes to real images in three figures at once, by its step and its temperature.

    python -m experiments.kernel_frontier --index data/demo/index --name digits
    python -m experiments.kernel_frontier --index data/shapes/index --name scenes

For every step and temperature of a grid: the exact chance of a copy, P(closer) in tokens and in codes of 1,000
sequences (0.5 is like real images), and the coherence of some of them decoded (1 is like real images). The step and
the temperature that were fitted are 1 and 1; the others are no fit, and a choice among them by these figures would be
one on held-out images. Writes a CSV file, to which the same command adds what is missing, and plots it beside it.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from benchmarks.tables import read_rows, write_rows
from imagegram.cli import UserError, run_script, summary
from imagegram.codec import Codec
from imagegram.codec.decoding import Decoder
from imagegram.files import atomic
from imagegram.generating import open_codec
from imagegram.index.folder import Index
from imagegram.metrics.coherence import open_classifiers
from imagegram.metrics.copying import measure
from imagegram.metrics.held_out import HeldOut, read_held_out
from imagegram.metrics.intervals import Figure, mean
from imagegram.metrics.registry import CLOSER, CLOSER_IN_CODES, COHERENCE, EXACT_COPY_PROBABILITY
from imagegram.samplers import Kernel

GRID = [(step, temperature) for temperature in (1.0, 0.8, 0.7, 0.62, 0.55) for step in (1.2, 1.0, 0.85, 0.7)]
MOST_TRAINING = 1000  # distinct training images that stand for all of them
GOAL = (0.45, 0.55)  # of P(closer)
MOST_COPIES = 1e-6  # of P(exact copy)
COHERENT = 0.95
COPIES = EXACT_COPY_PROBABILITY.key
FIGURES = {COPIES: ".1e", CLOSER.key: ".2f", CLOSER_IN_CODES.key: ".2f", COHERENCE.key: ".2f"}


@dataclass
class Config:
    index: Path = Path("data/index")
    name: str = "digits"  # of the data, in the table
    out: Path = Path("docs/kernel_frontier.csv")
    sequences: int = 1000
    images: int = 128  # of these, decoded
    seed: int = 0


@dataclass(frozen=True)
class Row:
    """One figure of a step and a temperature, with its 95 % interval."""

    data: str
    step: float
    temperature: float
    figure: str
    value: float
    low: float
    high: float

    @property
    def point(self) -> tuple[str, float, float]:
        return self.data, self.step, self.temperature


Points = dict[tuple[str, float, float], dict[str, Row]]


def copy_probability(index: Index, sampler: Kernel) -> Figure:
    """The chance that a drawn sequence equals a training image, from a random share of these where there are many."""
    distinct = np.unique(index.tokens, axis=0)
    rng = np.random.default_rng(0)
    chosen = rng.permutation(len(distinct))[:MOST_TRAINING]
    return mean(sampler.probabilities(index, distinct[chosen]).prod(1), rng).scaled(len(distinct))


def measure_point(config: Config, index: Index, codec: Codec, held_out: HeldOut, sampler: Kernel) -> list[Row]:
    """Measure a step and a temperature."""
    rng = np.random.default_rng(config.seed)
    tokens = sampler.sample(index, config.sequences, rng).tokens
    figures = measure(tokens, index, held_out.tokens, rng)["generated"]
    decoder = Decoder(codec)
    classifiers = open_classifiers(index, held_out, codec, index.tokens_per_image)
    if classifiers is None:
        raise UserError(f"{index.path} holds out too few images to measure coherence")
    figures |= classifiers.measure(decoder(tokens[: config.images]), rng)["generated"]
    figures[COPIES] = copy_probability(index, sampler)
    place = config.name, sampler.step, sampler.temperature
    return [Row(*place, key, f.value, f.low, f.high) for key in FIGURES for f in [figures[key]]]


def by_point(rows: list[Row]) -> Points:
    """The figures of every point, by their names."""
    points: Points = {}
    for row in rows:
        points.setdefault(row.point, {})[row.figure] = row
    return points


def reaches(figures: dict[str, Row]) -> bool:
    """Whether a point meets all three goals, by the values, not the intervals."""
    closer = (figures[key].value for key in (CLOSER.key, CLOSER_IN_CODES.key))
    within = all(GOAL[0] <= value <= GOAL[1] for value in closer)
    return within and figures[COPIES].value < MOST_COPIES and figures[COHERENCE.key].value >= COHERENT


def plot(path: Path, points: Points) -> None:
    """P(closer) in codes over P(closer) in tokens, the coherence as a colour; a square says where real images are."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    names = sorted({name for name, _, _ in points})
    temperatures = sorted({temperature for _, _, temperature in points})
    figure, panels = plt.subplots(1, len(names), figsize=(6.4 * len(names), 5.6), layout="constrained", squeeze=False)
    for name, axes in zip(names, panels[0], strict=True):
        side = GOAL[1] - GOAL[0]
        axes.add_patch(plt.Rectangle((GOAL[0], GOAL[0]), side, side, color="0.85", zorder=0))
        for temperature, marker in zip(temperatures, "PX^vso", strict=False):
            some = [(key[1], each) for key, each in sorted(points.items()) if (key[0], key[2]) == (name, temperature)]
            if not some:
                continue
            x = [each[CLOSER.key].value for _, each in some]
            y = [each[CLOSER_IN_CODES.key].value for _, each in some]
            axes.plot(x, y, color="0.6", lw=0.8, zorder=1)
            shades = [each[COHERENCE.key].value for _, each in some]
            dots = axes.scatter(x, y, c=shades, marker=marker, s=55, vmin=0.85, vmax=1.1, edgecolor="black", lw=0.6)
            dots.set_label(f"temperature {temperature:g}")
            for (step, each), place in zip(some, zip(x, y, strict=True), strict=True):
                if reaches(each):
                    text = f"{step:g}, P(copy) {each[COPIES].value:.0e}"
                    look = {"xytext": (-8, -3), "ha": "right", "weight": "bold"}
                else:
                    text = f"{step:g}"
                    look = {"xytext": (5, -9)}
                axes.annotate(text, place, textcoords="offset points", fontsize=8, **look)
        axes.set_title(f"{name} (beside a dot: the step; bold: all goals are met)", fontsize=10)
        axes.set(xlabel="P(closer), tokens", ylabel="P(closer), codes")
        axes.legend(loc="upper left", fontsize=8)
    figure.colorbar(dots, ax=panels[0].tolist(), label="coherence")
    with atomic(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
    plt.close(figure)


def main(config: Config) -> None:
    index = Index.open(config.index)
    held_out = read_held_out(index)
    if not len(held_out.tokens):
        raise UserError(f"{index.path} holds out no images: there is nothing to compare with")
    codec = open_codec(index)
    rows = read_rows(config.out, Row)
    for step, temperature in tqdm(GRID, desc=config.name, unit="point"):
        if (config.name, step, temperature) not in {row.point for row in rows}:
            sampler = Kernel(step=step, temperature=temperature)
            rows += measure_point(config, index, codec, held_out, sampler)
            write_rows(config.out, rows)
    points = by_point(rows)
    plot(config.out.with_suffix(".png"), points)
    print("| step | temperature | P(exact copy) | P(closer), tokens | P(closer), codes | coherence | all goals |")
    print("| --- " * 7 + "|")
    for (name, step, temperature), figures in points.items():
        if name == config.name:
            cells = []
            for key, form in FIGURES.items():
                row = figures[key]
                cells.append(f"{row.value:{form}} [{row.low:{form}}, {row.high:{form}}]")
            print(f"| {step:g} | {temperature:g} | {' | '.join(cells)} | {'yes' if reaches(figures) else ''} |")
    summary(table=config.out, plot=config.out.with_suffix(".png"))


if __name__ == "__main__":
    sys.exit(run_script(main, Config, __doc__))
