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
from scipy.stats import spearmanr
from tqdm import tqdm

from benchmarks.tables import read_rows, write_rows
from imagegram.cli import UserError, run_script, summary
from imagegram.codec import Codec
from imagegram.codec.decoding import Decoder
from imagegram.generating import open_codec
from imagegram.index.folder import Index
from imagegram.metrics import copying
from imagegram.metrics.coherence import open_classifiers
from imagegram.metrics.counting import copy_figures
from imagegram.metrics.held_out import HeldOut, read_held_out
from imagegram.metrics.intervals import Figure
from imagegram.metrics.nearest import memorization_figures
from imagegram.metrics.registry import BY_KEY, CLOSER
from imagegram.samplers import Aligned, Ntd

CONTEXTS = {"ntd": (1, 2, 3, 4, 5, 6), "aligned": (0, 1, 2, 3, 4, 5, 6)}
MEASURES = tuple(
    BY_KEY[key]
    for key in (
        "exact_copies",
        "near_copies",
        "f_mem",
        "authentic",
        CLOSER.key,
        "closer_in_codes",
        "c_t",
        "mosaics",
        "density",
        "coverage",
        "coherence",
    )
)
LIKE_REAL = Figure.exactly(0.5)  # of P(closer), which compares with the held-out images itself
EDGE = 1e-4  # probabilities nearer to 0 or 1 are drawn there


@dataclass
class Config:
    index: Path = Path("data/index")
    name: str = "digits"  # of the data, in the table
    out: Path = Path("docs/metrics_against_truth.csv")
    sequences: int = 1000
    images: int = 256  # of these, decoded; 0: measures of tokens only
    seed: int = 0


@dataclass(frozen=True)
class Row:
    """A measure of one sampler, and the same of held-out real images, each with its 95 % interval."""

    data: str
    sampler: str
    context: int
    exact_copy_probability: float
    measure: str
    value: float
    low: float
    high: float
    held_out: float
    held_out_low: float
    held_out_high: float

    @property
    def point(self) -> tuple[str, str, int]:
        return self.data, self.sampler, self.context


def measure(
    config: Config, index: Index, codec: Codec, held_out: HeldOut, sampler: Ntd | Aligned, truth: float
) -> list[Row]:
    """The rows of one sampler."""
    rng = np.random.default_rng(config.seed)
    tokens = sampler.sample(index, config.sequences, rng).tokens
    measures = copying.measure(tokens, index, held_out.tokens, rng)
    for who, figures in memorization_figures(tokens, index, held_out.tokens, rng).items():
        measures[who] |= figures
    decoder = Decoder(codec)
    classifiers = open_classifiers(index, held_out, codec, index.tokens_per_image) if config.images else None
    if classifiers:
        for who, figures in classifiers.measure(decoder(tokens[: config.images]), rng).items():
            measures[who] |= figures

    rows = []
    for metric in MEASURES:
        if mine := metric.of(measures["generated"]):
            real = metric.of(measures["held_out"]) or LIKE_REAL
            numbers = [mine.value, mine.low, mine.high, real.value, real.low, real.high]
            rows.append(Row(config.name, sampler.name, sampler.context, truth, metric.key, *numbers))
    return rows


def plot(path: Path, rows: list[Row]) -> None:
    """A panel a measure, over the exact copy probability; the held-out images' figures as bands."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    shown = [metric for metric in MEASURES if any(row.measure == metric.key for row in rows)]
    figure, panels = plt.subplots(-(-len(shown) // 3), 3, figsize=(11, 12), layout="constrained", squeeze=False)
    colors = dict(zip(sorted({row.data for row in rows}), ("tab:blue", "tab:orange", "tab:green"), strict=False))
    for metric, axes in zip(shown, panels.flat, strict=False):
        for data, color in colors.items():
            for sampler, marker in (("ntd", "o"), ("aligned", "s")):
                some = [r for r in rows if (r.measure, r.data, r.sampler) == (metric.key, data, sampler)]
                some.sort(key=lambda row: row.context)
                x = [min(max(EDGE, row.exact_copy_probability), 1 - EDGE) for row in some]
                axes.plot(x, [row.value for row in some], color=color, lw=0.7, alpha=0.6)
                for place, row in zip(x, some, strict=True):
                    axes.plot([place, place], [row.low, row.high], color=color, lw=1)
                    axes.plot(place, row.value, marker, color=color, ms=5, mfc=color if sampler == "ntd" else "white")
            real = next((r for r in rows if (r.measure, r.data) == (metric.key, data)), None)
            if real:
                axes.axhspan(real.held_out_low, real.held_out_high, color=color, alpha=0.15, lw=0)
                axes.axhline(real.held_out, color=color, lw=1, ls=":")
        axes.set(title=metric.title, xscale="logit", xlim=(EDGE / 2, 1 - EDGE / 2))
        ticks = {
            EDGE: "0",
            0.001: "0.001",
            0.01: "0.01",
            0.1: "0.1",
            0.5: "0.5",
            0.9: "0.9",
            0.99: "0.99",
            1 - EDGE: "1",
        }
        axes.set_xticks(list(ticks), list(ticks.values()), fontsize=8)
        axes.minorticks_off()
        axes.title.set_fontsize(10)
        axes.grid(alpha=0.25)
    for axes in panels[-1]:
        axes.set_xlabel("exact P(copy of a training image)")
    for axes in panels.flat[len(shown) :]:
        axes.set_axis_off()
    handles = [plt.Line2D([], [], color=color, label=data) for data, color in colors.items()]
    handles += [plt.Line2D([], [], color="black", marker="o", ls="", label="ntd, context 1 to 6")]
    handles += [plt.Line2D([], [], color="black", marker="s", mfc="white", ls="", label="aligned, context 0 to 6")]
    handles += [plt.Line2D([], [], color="0.4", ls=":", label="held-out real images")]
    panels.flat[-1].legend(handles=handles, loc="center", frameon=False)
    figure.savefig(path, dpi=90)


def correlations(rows: list[Row], data: str) -> dict[str, float]:
    """Spearman's rank correlation of each measure with the exact copy probability, over all samplers."""
    result = {}
    for metric in MEASURES:
        some = [row for row in rows if row.measure == metric.key and row.data == data]
        if len(some) > 2:
            result[metric.key] = float(
                spearmanr([row.exact_copy_probability for row in some], [row.value for row in some])[0]
            )
    return result


def main(config: Config) -> None:
    index = Index.open(config.index)
    held_out = read_held_out(index)
    if not len(held_out.tokens):
        raise UserError(f"{index.path} holds out no images: there is nothing to compare with")
    codec = open_codec(index)
    rows = read_rows(config.out, Row)
    points: list[Ntd | Aligned] = [Ntd(context=context) for context in CONTEXTS["ntd"]]
    points += [Aligned(context=context, min_images=1) for context in CONTEXTS["aligned"]]
    for sampler in tqdm(points, desc=config.name, unit="sampler"):
        if (config.name, sampler.name, sampler.context) in {row.point for row in rows}:
            continue
        exact = copy_figures(index.tokens, [sampler.context], isinstance(sampler, Aligned))
        truth = float(np.exp(exact[sampler.context].log_copy))
        rows += measure(config, index, codec, held_out, sampler, truth)
        write_rows(config.out, rows)
    plot(config.out.with_suffix(".png"), rows)
    summary(table=config.out, plot=config.out.with_suffix(".png"), **correlations(rows, config.name))


if __name__ == "__main__":
    sys.exit(run_script(main, Config, __doc__))
