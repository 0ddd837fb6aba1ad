"""How the kernel's held-out bits fall with the number of training images, and whether copies become
likelier.

    python tokenize_fast.py --dataset shapes --images 1200000 --out data/million
    python -m experiments.kernel_scaling data/million --name scenes

From 1,000 images on, each size is four times the one before, a random sample that holds the
smaller ones. Every size is fitted anew, and predicts the same held-out images, as fitted
(temperature 1). The chance of an exact copy, as fitted and as drawn by default, is the number of
distinct images times the mean chance of some of them. Writes a CSV file, to which the same command
adds the sizes that are missing, and plots it beside it: an hour on two cores to a million.
"""

import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure as Plot
from numpy.typing import NDArray
from tyro.conf import Positional

from experiments.common import add_rows, has, read_table, save_plot
from imagegram.cli import run_script, summary
from imagegram.data.contents import digest
from imagegram.metrics.intervals import mean
from imagegram.samplers import Kernel
from imagegram.samplers.kernel.drawing import Drawing, model_probabilities
from imagegram.samplers.kernel.fit import fit
from imagegram.tokens import TokenFolder

SMALLEST = 1000  # training images
MOST_COPIES = 1e-6  # the goal of P(exact copy)


@dataclass
class Config:
    tokens: Positional[Path]  # a token folder with held-out images
    name: str = "scenes"  # of the data, in the table
    largest: int = 1_000_000  # training images
    asked: int = 256
    """held-out images that are predicted, and training images that are looked for as copies"""
    out: Path = Path("docs/kernel_scaling.csv")


def sizes(largest: int) -> list[int]:
    """
    >>> sizes(20_000)
    [1000, 4000, 16000, 20000]
    """
    smaller = [SMALLEST * 4**i for i in range(20)]
    return [*(size for size in smaller if size < largest), largest]


def measure(
    training: NDArray[np.uint16], held_out: NDArray[np.uint16], levels: tuple[int, ...], asked: int
) -> dict[str, float]:
    """The figures of a kernel fitted to training images [N, L]; `asked` of these are looked for as
    copies."""
    started = time.process_time()
    model = fit(training, levels)
    found = {"fit_core_seconds": time.process_time() - started}

    def log2(tokens: NDArray[np.uint16], drawing: Drawing) -> NDArray[np.float64]:
        return np.log2(model_probabilities(model, training, tokens, drawing))

    distinct = np.unique(training, axis=0)
    images = distinct[np.random.default_rng(0).permutation(len(distinct))[:asked]]
    by_default = Drawing(Kernel.step, Kernel.temperature)
    for key, values in (
        ("held_out_bits", -log2(held_out, Drawing()).mean(1)),
        ("copies_as_fitted", len(distinct) * np.exp2(log2(images, Drawing()).sum(1))),
        ("copies_as_drawn", len(distinct) * np.exp2(log2(images, by_default).sum(1))),
    ):
        figure = mean(values, np.random.default_rng(0))
        found |= {key: figure.value, f"{key}_low": figure.low, f"{key}_high": figure.high}
    return found


def plot(path: Path, table: pd.DataFrame) -> None:
    """Bits, and chances of a copy, over the number of training images."""
    figure = Plot(figsize=(9, 3.8), layout="constrained")
    bits, copies = figure.subplots(1, 2)
    for (name, _), rows in table.groupby(["data", "corpus"], dropna=False):
        n = rows.images
        bits.fill_between(n, rows.held_out_bits_low, rows.held_out_bits_high, alpha=0.2)
        bits.plot(n, rows.held_out_bits, marker="o", label=str(name))
        copies.plot(n, rows.copies_as_drawn, marker="o", label=f"{name}, as drawn by default")
        copies.plot(n, rows.copies_as_fitted, marker="s", ls="--", label=f"{name}, as fitted")
    copies.axhline(MOST_COPIES, color="0.6", lw=0.8)
    copies.set(yscale="log", ylabel="P(exact copy)")
    bits.set(ylabel="held-out bits a token, as fitted")
    for axes in (bits, copies):
        axes.set(xscale="log", xlabel="training images")
        axes.legend(fontsize=8)
    save_plot(figure, path)


def main(config: Config) -> None:
    folder = TokenFolder.open(config.tokens)
    corpus = folder.load()
    training = np.ascontiguousarray(corpus.tokens[~corpus.held_out])
    training = training[np.random.default_rng(0).permutation(len(training))]
    held_out = corpus.tokens[corpus.held_out]
    held_out = held_out[np.random.default_rng(1).permutation(len(held_out))[: config.asked]]

    # Held-out images of another corpus may be easier: its rows are no points of the same curve.
    key = digest([training.tobytes(), held_out.tobytes()])
    table = read_table(config.out)
    for images in sizes(min(config.largest, len(training))):
        if not has(table, corpus=key, images=images):
            print(f"{images:,} training images", flush=True)
            found = measure(training[:images], held_out, folder.manifest.levels, config.asked)
            row = {"data": config.name, "corpus": key, "images": images} | found
            table = add_rows(config.out, table, [row])
    plot(config.out.with_suffix(".png"), table)
    print(table[table.corpus == key].to_string(index=False))
    summary(table=config.out, plot=config.out.with_suffix(".png"))


if __name__ == "__main__":
    sys.exit(run_script(main, Config, __doc__))
