"""What measures of memorization say where the true copy rate is known: a table and a plot.

    python -m experiments.metrics_against_truth --index data/demo/index --name digits
    python -m experiments.metrics_against_truth --index data/shapes/index --name scenes

`ntd` and `aligned` are swept over their contexts. For each the probability that a drawn sequence equals a training
image is known exactly, from counts; beside it stand the measures of 1,000 sequences and of the first 256 of them
decoded, and the same measures of held-out real images. Written to a CSV file of one line a sampler, context and
measure, to which the same command adds what is missing; then plotted beside it. Two or three minutes on two free cores.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure as Plot
from matplotlib.lines import Line2D
from tqdm import tqdm

from experiments.common import Corpus, has, read_table, save_plot, write_table
from imagegram.cli import run_script, summary
from imagegram.metrics.counting import copy_figures
from imagegram.metrics.intervals import Figure
from imagegram.metrics.nearest import memorization_figures
from imagegram.metrics.registry import BY_KEY
from imagegram.samplers import Aligned, Ntd

POINTS: tuple[Ntd | Aligned, ...] = (
    *(Ntd(context=context) for context in range(1, 7)),
    *(Aligned(context=context, min_images=1) for context in range(7)),
)
MEASURES = [
    *("exact_copies", "near_copies", "f_mem", "authentic", "closer_than_held_out", "closer_in_codes", "c_t"),
    *("mosaics", "density", "coverage", "coherence"),
]
LIKE_REAL = Figure.exactly(0.5)  # of P(closer), which compares with the held-out images itself
EDGE = 1e-4  # probabilities nearer to 0 or 1 are drawn there
TICKS = {EDGE: "0", 1 - EDGE: "1"} | {p: f"{p:g}" for p in (0.001, 0.01, 0.1, 0.5, 0.9, 0.99)}
COLORS = ("tab:blue", "tab:orange", "tab:green")


@dataclass
class Config:
    index: Path = Path("data/index")
    name: str = "digits"  # of the data, in the table
    out: Path = Path("docs/metrics_against_truth.csv")
    sequences: int = 1000
    images: int = 256  # of these, decoded; 0: measures of tokens only
    seed: int = 0


def measure(config: Config, corpus: Corpus, sampler: Ntd | Aligned) -> pd.DataFrame:
    """The measures of one sampler, and the same of held-out real images, each with its 95 % interval."""
    rng = np.random.default_rng(config.seed)
    exact = copy_figures(corpus.index.tokens, [sampler.context], aligned=isinstance(sampler, Aligned))
    tokens = sampler.sample(corpus.index, config.sequences, rng).tokens
    measures = corpus.measure(tokens, config.images, rng)
    for who, figures in memorization_figures(tokens, corpus.index, corpus.held_out.tokens, rng).items():
        measures[who] |= figures
    rows = []
    for key in MEASURES:
        if mine := measures["generated"].get(key):
            real = measures["held_out"].get(key, LIKE_REAL)
            row = {"data": config.name, "sampler": sampler.name, "context": sampler.context}
            row |= {"exact_copy_probability": np.exp(exact[sampler.context].log_copy), "measure": key}
            row |= {"value": mine.value, "low": mine.low, "high": mine.high}
            rows.append(row | {"held_out": real.value, "held_out_low": real.low, "held_out_high": real.high})
    return pd.DataFrame(rows)


def plot(path: Path, table: pd.DataFrame) -> None:
    """A panel a measure, over the exact copy probability; the held-out images' figures as bands."""
    shown = [key for key in MEASURES if has(table, measure=key)]
    figure = Plot(figsize=(11, 12), layout="constrained")
    panels = figure.subplots(-(-len(shown) // 3), 3, squeeze=False)
    colors = dict(zip(sorted(table.data.unique()), COLORS, strict=False))
    for key, axes in zip(shown, panels.flat, strict=False):
        for (data, sampler), some in table[table.measure == key].groupby(["data", "sampler"]):
            some = some.sort_values("context")
            x = some.exact_copy_probability.clip(EDGE, 1 - EDGE)
            axes.plot(x, some.value, color=colors[data], lw=0.7, alpha=0.6)
            axes.vlines(x, some.low, some.high, color=colors[data], lw=1)
            face = colors[data] if sampler == "ntd" else "white"
            axes.plot(x, some.value, "o" if sampler == "ntd" else "s", color=colors[data], ms=5, mfc=face)
            real = some.iloc[0]
            axes.axhspan(real.held_out_low, real.held_out_high, color=colors[data], alpha=0.08, lw=0)
            axes.axhline(real.held_out, color=colors[data], lw=1, ls=":")
        axes.set(xscale="logit", xlim=(EDGE / 2, 1 - EDGE / 2))
        axes.set_title(BY_KEY[key].title, fontsize=10)
        axes.set_xticks(list(TICKS), list(TICKS.values()), fontsize=8)
        axes.minorticks_off()
        axes.grid(alpha=0.25)
    for axes in panels[-1]:
        axes.set_xlabel("exact P(copy of a training image)")
    for axes in panels.flat[len(shown) :]:
        axes.set_axis_off()
    handles = [Line2D([], [], color=color, label=data) for data, color in colors.items()]
    handles += [Line2D([], [], color="black", marker="o", ls="", label="ntd, context 1 to 6")]
    handles += [Line2D([], [], color="black", marker="s", mfc="white", ls="", label="aligned, context 0 to 6")]
    handles += [Line2D([], [], color="0.4", ls=":", label="held-out real images")]
    panels.flat[-1].legend(handles=handles, loc="center", frameon=False)
    save_plot(figure, path, dpi=90)


def correlations(table: pd.DataFrame) -> dict[str, float]:
    """Spearman's rank correlation of each measure with the exact copy probability, over all samplers."""
    groups = table.groupby("measure", sort=False)
    return {key: some.value.corr(some.exact_copy_probability, "spearman") for key, some in groups if len(some) > 2}


def main(config: Config) -> None:
    corpus = Corpus.open(config.index)
    table = read_table(config.out)
    for sampler in tqdm(POINTS, desc=config.name, unit="sampler"):
        if not has(table, data=config.name, sampler=sampler.name, context=sampler.context):
            table = write_table(config.out, pd.concat([table, measure(config, corpus, sampler)]))
    plot(config.out.with_suffix(".png"), table)
    figures = correlations(table[table.data == config.name])
    summary(table=config.out, plot=config.out.with_suffix(".png"), **figures)


if __name__ == "__main__":
    sys.exit(run_script(main, Config, __doc__))
