"""How near the kernel n-gram comes to real images in three figures at once, by its step and its
temperature.

    python -m experiments.kernel_frontier --index data/demo/index --name digits
    python -m experiments.kernel_frontier --index data/demo/index --name digits
        --inner data/demo/inner --out docs/kernel_defaults.csv

For every step and temperature of a grid: the exact chance of a copy, P(closer) in tokens and in
codes of 1,000 sequences (0.5 is like real images), and the coherence of some of them decoded (1 is
like real images). The step and the temperature that were fitted are 1 and 1; the others are no fit,
and a choice among them by these figures would be one on held-out images. So --inner looks at the
training images alone: nine tenths of them are indexed and fitted anew in that folder, and the
others are what is held out. The defaults for drawing were chosen by these. Writes a CSV file, to
which the same command adds what is missing, and plots it beside it.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.figure import Figure as Plot
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from tqdm import tqdm

from experiments.common import (
    Corpus,
    add_rows,
    has,
    print_head,
    print_row,
    read_table,
    save_plot,
)
from imagegram.cli import run_script, summary
from imagegram.metrics.exact import exact_figures
from imagegram.metrics.registry import (
    BY_KEY,
    CLOSER,
    CLOSER_IN_CODES,
    COHERENCE,
    EXACT_COPY_PROBABILITY,
)
from imagegram.samplers import Kernel

GOAL = (0.45, 0.55)  # of P(closer)
MOST_COPIES = 1e-6  # of P(exact copy)
COHERENT = 0.95
COPIES = EXACT_COPY_PROBABILITY.key
FIGURES = {COPIES: ".1e", CLOSER.key: ".2f", CLOSER_IN_CODES.key: ".2f", COHERENCE.key: ".2f"}
PLAIN = {"edgecolor": "black", "lw": 0.6, "zorder": 2}  # of a point that misses a goal
POINT = ["data", "step", "temperature"]
MARKERS = {1.0: "s", 0.3: "v", 0.2: "^", 0.1: "o", 0.05: "P"}  # of a temperature
SIZES = {1.0: 110, 0.85: 55, 0.7: 22}  # of a step
GRID = [(step, temperature) for temperature in MARKERS for step in SIZES]


@dataclass
class Config:
    index: Path = Path("data/index")
    name: str = "digits"  # of the data, in the table
    inner: Path | None = None  # where the training images alone are indexed
    out: Path = Path("docs/kernel_frontier.csv")
    sequences: int = 1000
    images: int = 128  # of these, decoded
    seed: int = 0


def measure_point(config: Config, corpus: Corpus, sampler: Kernel) -> pd.DataFrame:
    """The rows of a step and a temperature: a figure each, with its 95 % interval."""
    rng = np.random.default_rng(config.seed)
    tokens = sampler.sample(corpus.index, config.sequences, rng).tokens
    figures = corpus.measure(tokens, config.images, rng)["generated"]
    nobody = corpus.held_out.tokens[:0]
    figures |= exact_figures(corpus.index, sampler, nobody, np.random.default_rng(0))
    point = (config.name, sampler.step, sampler.temperature)
    rows = [(*point, key, f.value, f.low, f.high) for key in FIGURES for f in [figures[key]]]
    return pd.DataFrame(rows, columns=[*POINT, "figure", "value", "low", "high"])


def reaches(values: pd.Series) -> bool:
    """Whether a point meets all three goals, by the values of its figures, not the intervals."""
    within = values[[CLOSER.key, CLOSER_IN_CODES.key]].between(*GOAL).all()
    return bool(within and values[COPIES] < MOST_COPIES and values[COHERENCE.key] >= COHERENT)


def plot(path: Path, table: pd.DataFrame) -> None:
    """P(closer) in codes over that in tokens, coherence as a colour; a square: as real images."""
    points = table.pivot(index=POINT, columns="figure", values="value").reset_index()
    names = list(table.data.unique())
    figure = Plot(figsize=(3.6 * len(names) + 0.6, 4.6), layout="constrained")
    panels = figure.subplots(1, len(names), sharex=True, sharey=True, squeeze=False)[0]
    coherence = points[COHERENCE.key]
    shades: dict[str, Any] = {"vmin": coherence.min(), "vmax": coherence.max()}
    low, side = GOAL[0], GOAL[1] - GOAL[0]
    for name, axes in zip(names, panels, strict=True):
        axes.add_patch(Rectangle((low, low), side, side, color="0.88", zorder=0))
        for temperature, some in points[points.data == name].groupby("temperature"):
            axes.plot(some[CLOSER.key], some[CLOSER_IN_CODES.key], color="0.6", lw=0.8, zorder=1)
            for _, each in some.iterrows():
                met = reaches(each)
                look = {"marker": MARKERS[temperature], "s": SIZES[each.step]}
                look |= {"edgecolor": "red", "lw": 2, "zorder": 3} if met else PLAIN
                place = (each[CLOSER.key], each[CLOSER_IN_CODES.key])
                dots = axes.scatter(*place, c=[each[COHERENCE.key]], **look, **shades)
        axes.set_title(name)
        axes.set(xlabel="P(closer), tokens", aspect="equal")
        axes.grid(alpha=0.25)
    panels[0].set_ylabel("P(closer), codes")
    figure.colorbar(dots, ax=list(panels), label="coherence", shrink=0.7)

    def sign(label: str, edge: str = "black", **look: Any) -> Artist:
        return Line2D([], [], color="none", markeredgecolor=edge, label=label, **look)

    signs = [sign(f"temperature {t:g}", marker=m, ms=7) for t, m in MARKERS.items()]
    signs += [sign(f"step {step:g}", marker="o", ms=s**0.5) for step, s in SIZES.items()]
    signs.append(sign("meets all goals", "red", marker="o", ms=7, mew=2))
    handles = [*signs, Patch(color="0.88", label="as real images")]
    figure.legend(handles=handles, loc="outside lower center", ncols=5, frameon=False)
    save_plot(figure, path)


def least_off(table: pd.DataFrame) -> str:
    """The point whose P(closer), in tokens or codes, of any of the data, is at worst the least off
    0.5."""
    close = table[table.figure.isin([CLOSER.key, CLOSER_IN_CODES.key])]
    worst = (close.value - 0.5).abs().groupby([close.step, close.temperature]).max()
    step, temperature = worst.idxmin()
    return f"step {step:g}, temperature {temperature:g}: {worst.min():.3f}"


def main(config: Config) -> None:
    if config.inner:
        corpus = Corpus.of_training_images(config.index, config.inner)
    else:
        corpus = Corpus.open(config.index)
    table = read_table(config.out)
    for step, temperature in tqdm(GRID, desc=config.name, unit="point"):
        if not has(table, data=config.name, step=step, temperature=temperature):
            point = measure_point(config, corpus, Kernel(step=step, temperature=temperature))
            table = add_rows(config.out, table, point)
    plot(config.out.with_suffix(".png"), table)
    print_head("step", "temperature", *(BY_KEY[key].title for key in FIGURES), "all goals")
    mine = table[table.data == config.name].groupby(POINT[1:], sort=False)
    for (step, temperature), rows in mine:
        figures = rows.set_index("figure")
        cells = [
            "{:{f}} [{:{f}}, {:{f}}]".format(*figures.loc[key, ["value", "low", "high"]], f=f)
            for key, f in FIGURES.items()
        ]
        met = "yes" if reaches(figures.value) else ""
        print_row(f"{step:g}", f"{temperature:g}", *cells, met)
    summary(least_off=least_off(table), table=config.out, plot=config.out.with_suffix(".png"))


if __name__ == "__main__":
    sys.exit(run_script(main, Config, __doc__))
