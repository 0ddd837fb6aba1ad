"""The plots of the scaling study, from its table of results."""

from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.figure import Figure as Plot

from experiments.common import save_plot
from imagegram.files import read_json
from imagegram.report.pictures import colour_of

TITLES = {"shapes": "procedural scenes", "digits": "digits", "fashion_mnist": "Fashion-MNIST", "cifar10": "CIFAR-10"}
SHOWN_CONTEXTS = (1, 2, 3, 4, 5, 6, 10)
MARKERS = {1_000: "o", 16_000: "s", 256_000: "D", 1_000_000: "^"}


def draw_all(out: Path, table: pd.DataFrame, neural: Path) -> None:
    """Write the plots of a table of results into `out`: copies, bits, matches, coherence, predictions."""
    table = table.assign(low=table.low.fillna(table.value), high=table.high.fillna(table.value))
    draw_copies(out / "copies.png", table)
    draw_bits(out / "bits.png", table, read_json(neural) if neural.exists() else {})
    draw_matches(out / "matches.png", table)
    draw_predictions(out / "predictions.png", table)
    if len(select(table, dataset="shapes", quantity="coherence")):
        draw_coherence(out / "coherence.png", table)


def select(table: pd.DataFrame, **equal: Any) -> pd.DataFrame:
    """The rows that have these values."""
    return table[(table[list(equal)] == list(equal.values())).all(axis=1)]


def curve(rows: pd.DataFrame) -> pd.DataFrame:
    """Over the corpora of a size `images`: the mean value, the lowest and the highest end of an interval."""
    return rows.groupby("images", as_index=False).agg({"value": "mean", "low": "min", "high": "max"})


def plot_curve(axes: Any, rows: pd.DataFrame, **style: Any) -> None:
    """A curve with its band."""
    if len(rows):
        shown = curve(rows)
        axes.plot(shown.images, shown.value, **{"marker": "o", "ms": 4, "lw": 1.6} | style)
        axes.fill_between(shown.images, shown.low, shown.high, color=style["color"], alpha=0.2, lw=0)


def panels(table: pd.DataFrame, ylabel: str) -> tuple[Plot, dict[str, Any]]:
    """A row of plots against the number of images, one for each data set, scenes first."""
    datasets = sorted(table.dataset.unique(), key=lambda name: (name != "shapes", name))
    figure = Plot(figsize=(2 + 2.7 * len(datasets), 3.4), layout="constrained")
    all_axes = figure.subplots(1, len(datasets), sharey=True, squeeze=False)[0]
    for dataset, axes in zip(datasets, all_axes, strict=True):
        axes.set(xscale="log", xlabel="training images", title=TITLES.get(dataset, dataset))
        axes.grid(alpha=0.25)
    all_axes[0].set_ylabel(ylabel)
    return figure, dict(zip(datasets, all_axes, strict=True))


def legend(all_axes: dict[str, Any], title: str = "") -> None:
    """One legend, of everything that is drawn in any of the plots."""
    named: dict[str, Any] = {}
    for axes in all_axes.values():
        handles, labels = axes.get_legend_handles_labels()
        named |= dict(zip(labels, handles, strict=True))
    place = {"loc": "center left", "bbox_to_anchor": (1.01, 0.5)}
    axes.legend(named.values(), named.keys(), title=title, fontsize=8, **place)


def draw_copies(path: Path, table: pd.DataFrame) -> None:
    """P(copy) of ntd against the corpus for each context; of the kernel, dashed."""
    figure, all_axes = panels(table, "P(exact copy)")
    colors = matplotlib.colormaps["viridis"]
    for dataset, axes in all_axes.items():
        rows = select(table, dataset=dataset, quantity="copy_probability")
        for i, context in enumerate(SHOWN_CONTEXTS):
            color = colors(0.95 * i / (len(SHOWN_CONTEXTS) - 1))
            plot_curve(axes, select(rows, sampler="ntd", context=context), color=color, label=f"{context}")
        plot_curve(axes, select(rows, sampler="kernel"), color=colour_of("kernel"), ls="--", label="kernel")
        axes.set(ylim=(-0.03, 1.03))
    legend(all_axes, "ntd, tokens\nof context")
    save_plot(figure, path)


def draw_bits(path: Path, table: pd.DataFrame, neural: dict[str, Any]) -> None:
    """Held-out bits a token against the corpus: position-unigram, smoothed counts, kernel, transformers."""
    figure, all_axes = panels(table, "held-out bits a token")
    for dataset, axes in all_axes.items():
        rows = select(table, dataset=dataset, quantity="held_out_bits")
        for sampler in ("unigram", "smoothed", "kernel"):
            plot_curve(axes, select(rows, sampler=sampler), color=colour_of(sampler), label=sampler)
        called = "scenes" if dataset == "shapes" else dataset
        for model, marker in (("ids", "^"), ("digits", "v")):
            entries = [entry for name, entry in neural.items() if name.startswith(called) and f", {model}," in name]
            points = sorted((entry["training_images"], entry["held_out_bits"]["value"]) for entry in entries)
            if points:
                sizes, bits = zip(*points, strict=True)
                axes.plot(sizes, bits, marker=marker, color="black", lw=1, ls=":", label=f"transformer, {model}")
    legend(all_axes)
    save_plot(figure, path)


def draw_matches(path: Path, table: pd.DataFrame) -> None:
    """How many tokens of context a held-out image shares with the corpus."""
    figure, all_axes = panels(table, "tokens that match")
    for dataset, axes in all_axes.items():
        for sampler, label in (("ntd", "anywhere"), ("aligned", "at the same position")):
            rows = select(table, dataset=dataset, quantity="match_length", sampler=sampler)
            plot_curve(axes, rows, color=colour_of(sampler), label=label)
    legend(all_axes)
    save_plot(figure, path)


def predictions(table: pd.DataFrame) -> pd.DataFrame:
    """Of every predicted P(copy) its row with the `truth`; without an interval where nothing was known."""
    same = ["dataset", "sampler", "context", "images", "corpus"]
    truth = select(table, quantity="copy_probability")[[*same, "value"]].rename(columns={"value": "truth"})
    rows = select(table, quantity="predicted_copy_probability").merge(truth, on=same)
    known = rows.high - rows.low < 1  # else no image of the tenth has a competitor
    return rows.assign(low=rows.low.where(known, rows.value), high=rows.high.where(known, rows.value))


def draw_predictions(path: Path, table: pd.DataFrame) -> None:
    """P(copy) as a tenth of the corpus predicts it, against the truth."""
    figure = Plot(figsize=(4.6, 4.2), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="0.6", lw=1)
    axes.fill_between([0, 1], [-0.1, 0.9], [0.1, 1.1], color="0.93", zorder=0)
    for number, (dataset, rows) in enumerate(predictions(table).groupby("dataset")):
        error = [rows.value - rows.low, rows.high - rows.value]
        look: dict[str, Any] = {"fmt": "osD^"[number % 4], "ms": 4, "lw": 0.8, "color": f"C{number}"}
        axes.errorbar(rows.truth, rows.value, yerr=error, label=TITLES.get(str(dataset), str(dataset)), **look)
    axes.set(xlabel="P(exact copy), exactly", ylabel="predicted from a tenth of the images", ylim=(-0.03, 1.03))
    axes.grid(alpha=0.25)
    axes.legend(fontsize=8)
    save_plot(figure, path)


def draw_coherence(path: Path, table: pd.DataFrame) -> None:
    """Coherence against P(copy), of the samplers at several sizes of the corpus of scenes; a dot for each corpus."""
    figure = Plot(figsize=(7.2, 4.6), layout="constrained")
    axes = figure.subplots()
    same = ["images", "corpus", "sampler", "context"]
    copies = select(table, dataset="shapes", quantity="copy_probability")[[*same, "value"]]
    rows = select(table, dataset="shapes", quantity="coherence").merge(copies, on=same, suffixes=("", "_copies"))
    for row in rows.itertuples():
        color = colour_of(row.sampler)
        x = max(1e-12, row.value_copies)
        axes.plot([x, x], [row.low, row.high], color=color, lw=1)
        axes.plot(x, row.value, MARKERS.get(row.images, "o"), color=color, ms=6)
        if row.context and not row.corpus:
            axes.annotate(str(row.context), (x, row.value), (5, 3), textcoords="offset points", fontsize=8)
    methods = ("ntd", "aligned", "smoothed", "kernel")
    handles = [axes.plot([], [], "o", color=colour_of(method), label=method)[0] for method in methods]
    for size in sorted(rows.images.unique()):
        handles += axes.plot([], [], MARKERS.get(size, "o"), color="0.5", label=f"{size:,} images")
    axes.axhline(1, color="0.6", lw=1, ls=":")
    axes.grid(alpha=0.25)
    axes.set(xscale="log", xlabel="P(exact copy); numbers: tokens of context", ylabel="coherence (1: held-out images)")
    axes.legend(handles=handles, fontsize=8)
    save_plot(figure, path)
