"""The plots of the scaling study, from its table of results."""

from pathlib import Path
from typing import Any

import numpy as np

from imagegram.files import atomic, read_json
from imagegram.report.pictures import colour_of

Table = list[dict[str, Any]]
TITLES = {"shapes": "procedural scenes", "digits": "digits", "fashion_mnist": "Fashion-MNIST", "cifar10": "CIFAR-10"}
SHOWN_CONTEXTS = (1, 2, 3, 4, 5, 6, 10)
MARKERS = {1_000: "o", 16_000: "s", 256_000: "D", 1_000_000: "^"}


def draw_all(out: Path, table: Table, neural: Path) -> None:
    """Write the plots of a table of results into `out`: copies, bits, matches, coherence, predictions."""
    datasets = sorted({each["dataset"] for each in table}, key=lambda name: (name != "shapes", name))
    draw_copies(out / "copies.png", table, datasets)
    draw_bits(out / "bits.png", table, datasets, read_json(neural) if neural.exists() else {})
    draw_matches(out / "matches.png", table, datasets)
    draw_predictions(out / "predictions.png", table)
    if select(table, "shapes", "coherence"):
        draw_coherence(out / "coherence.png", table)


def select(table: Table, dataset: str, quantity: str, **equal: Any) -> Table:
    """The rows of a quantity of a data set."""
    wanted = {"dataset": dataset, "quantity": quantity} | equal
    return [row for row in table if all(row[key] == value for key, value in wanted.items())]


def curve(rows: Table) -> tuple[list[int], list[float], list[float], list[float]]:
    """Sizes of corpora and, over the corpora of a size, the mean and the lowest and highest end of an interval."""
    sizes = sorted({row["images"] for row in rows})
    groups = [[row for row in rows if row["images"] == size] for size in sizes]
    values = [float(np.mean([row["value"] for row in group])) for group in groups]
    low = [min(row["low"] for row in group) for group in groups]
    high = [max(row["high"] for row in group) for group in groups]
    return sizes, values, low, high


def plot_curve(axes: Any, rows: Table, **style: Any) -> None:
    """A curve with its band."""
    if not rows:
        return
    sizes, values, low, high = curve(rows)
    axes.plot(sizes, values, **{"marker": "o", "ms": 4, "lw": 1.6} | style)
    axes.fill_between(sizes, low, high, color=style["color"], alpha=0.2, lw=0)


def draw_copies(path: Path, table: Table, datasets: list[str]) -> None:
    """P(copy) of ntd against the corpus for each context; of the kernel, dashed."""
    figure, all_axes = _panels(len(datasets), "P(exact copy)")
    colors = _context_colors()
    for axes, dataset in zip(all_axes, datasets, strict=True):
        for context in SHOWN_CONTEXTS:
            rows = select(table, dataset, "copy_probability", sampler="ntd", context=context)
            plot_curve(axes, rows, color=colors[context], label=f"{context}")
        kernel = select(table, dataset, "copy_probability", sampler="kernel")
        plot_curve(axes, kernel, color=colour_of("kernel"), ls="--", label="kernel")
        axes.set(title=TITLES.get(dataset, dataset), ylim=(-0.03, 1.03))
    all_axes[-1].legend(title="ntd, tokens\nof context", fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5))
    _save(figure, path)


def draw_bits(path: Path, table: Table, datasets: list[str], neural: dict[str, Any]) -> None:
    """Held-out bits a token against the corpus: position-unigram, smoothed counts, kernel, transformers."""
    figure, all_axes = _panels(len(datasets), "held-out bits a token")
    names = {"shapes": "scenes", "digits": "digits", "fashion_mnist": "fashion_mnist"}
    for axes, dataset in zip(all_axes, datasets, strict=True):
        for sampler in ("unigram", "smoothed", "kernel"):
            rows = select(table, dataset, "held_out_bits", sampler=sampler)
            plot_curve(axes, rows, color=colour_of(sampler), label=sampler)
        for model, marker in (("ids", "^"), ("digits", "v")):
            entries = [
                entry
                for name, entry in sorted(neural.items())
                if name.startswith(names.get(dataset, dataset)) and f", {model}," in name
            ]
            points = sorted((entry["training_images"], entry["held_out_bits"]["value"]) for entry in entries)
            if points:
                sizes, bits = zip(*points, strict=True)
                axes.plot(sizes, bits, marker=marker, color="black", lw=1, ls=":", label=f"transformer, {model}")
        axes.set(title=TITLES.get(dataset, dataset))
    _legend(all_axes)
    _save(figure, path)


def draw_matches(path: Path, table: Table, datasets: list[str]) -> None:
    """How many tokens of context a held-out image shares with the corpus."""
    figure, all_axes = _panels(len(datasets), "tokens that match")
    for axes, dataset in zip(all_axes, datasets, strict=True):
        for sampler, label in (("ntd", "anywhere"), ("aligned", "at the same position")):
            rows = select(table, dataset, "match_length", sampler=sampler)
            plot_curve(axes, rows, color=colour_of(sampler), label=label)
        axes.set(title=TITLES.get(dataset, dataset))
    _legend(all_axes)
    _save(figure, path)


def draw_predictions(path: Path, table: Table) -> None:
    """P(copy) as a tenth of the corpus predicts it, against the truth."""
    figure, axes = _axes(4.6, 4.2)
    axes.plot([0, 1], [0, 1], color="0.6", lw=1)
    axes.fill_between([0, 1], [-0.1, 0.9], [0.1, 1.1], color="0.93", zorder=0)
    datasets = sorted({row["dataset"] for row in table})
    for number, dataset in enumerate(datasets):
        pairs = predictions(table, dataset)
        if not pairs:
            continue
        truth, value, low, high = np.array([pair[2:] for pair in pairs]).T
        axes.errorbar(
            truth,
            value,
            yerr=np.abs(np.stack([value - low, high - value])),
            fmt="osD^"[number % 4],
            ms=4,
            lw=0.8,
            color=f"C{number}",
            label=TITLES.get(dataset, dataset),
        )
    axes.set(xlabel="P(exact copy), exactly", ylabel="predicted from a tenth of the images", ylim=(-0.03, 1.03))
    axes.legend(fontsize=8)
    _save(figure, path)


def predictions(table: Table, dataset: str) -> list[tuple[str, int, float, float, float, float]]:
    """Of every predicted P(copy): sampler and context, images, the truth, the prediction and its interval."""
    pairs = []
    for row in select(table, dataset, "predicted_copy_probability"):
        same = {key: row[key] for key in ("sampler", "context", "images", "corpus")}
        truth = select(table, dataset, "copy_probability", **same)[0]["value"]
        name = f"{row['sampler']}, {row['context']}"
        nothing_known = row["high"] - row["low"] == 1  # no image of the tenth has a competitor
        low, high = (row["value"] if nothing_known else row[key] for key in ("low", "high"))
        pairs.append((name, row["images"], truth, row["value"], low, high))
    return pairs


def draw_coherence(path: Path, table: Table) -> None:
    """Coherence against P(copy), of the samplers at several sizes of the corpus of scenes; a dot for each corpus."""
    figure, axes = _axes(7.2, 4.6)
    for row in select(table, "shapes", "coherence"):
        same = {key: row[key] for key in ("images", "corpus", "sampler", "context")}
        copies = select(table, "shapes", "copy_probability", **same)
        if not copies:
            continue
        method = row["sampler"].split(",")[0]
        x = max(1e-12, copies[0]["value"])
        axes.plot([x, x], [row["low"], row["high"]], color=colour_of(method), lw=1)
        axes.plot(x, row["value"], MARKERS.get(row["images"], "o"), color=colour_of(method), ms=6)
        if row["context"] and not row["corpus"]:
            axes.annotate(str(row["context"]), (x, row["value"]), (5, 3), textcoords="offset points", fontsize=8)
    shown = sorted({row["images"] for row in select(table, "shapes", "coherence")})
    methods = ("ntd", "aligned", "smoothed", "kernel")
    handles = [axes.plot([], [], "o", color=colour_of(method), label=method)[0] for method in methods]
    handles += [axes.plot([], [], MARKERS.get(size, "o"), color="0.5", label=f"{size:,} images")[0] for size in shown]
    axes.axhline(1, color="0.6", lw=1, ls=":")
    axes.set(xscale="log", xlabel="P(exact copy); numbers: tokens of context", ylabel="coherence (1: held-out images)")
    axes.legend(handles=handles, fontsize=8)
    _save(figure, path)


def _legend(all_axes: list[Any]) -> None:
    """One legend, of everything that is drawn in any of the plots."""
    named: dict[str, Any] = {}
    for axes in all_axes:
        handles, labels = axes.get_legend_handles_labels()
        named |= dict(zip(labels, handles, strict=True))
    all_axes[-1].legend(named.values(), named.keys(), fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5))


def _context_colors() -> dict[int, Any]:
    import matplotlib

    colors = matplotlib.colormaps["viridis"]
    return {c: colors(0.95 * i / (len(SHOWN_CONTEXTS) - 1)) for i, c in enumerate(SHOWN_CONTEXTS)}


def _pyplot() -> Any:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    return plt


def _panels(count: int, ylabel: str) -> tuple[Any, list[Any]]:
    """A row of plots against the number of images, one for each data set."""
    figure, axes = _pyplot().subplots(
        1, count, figsize=(2 + 2.7 * count, 3.4), layout="constrained", sharey=True, squeeze=False
    )
    for one in axes[0]:
        one.set(xscale="log", xlabel="training images")
        one.grid(alpha=0.25)
    axes[0, 0].set_ylabel(ylabel)
    return figure, list(axes[0])


def _axes(width: float, height: float) -> tuple[Any, Any]:
    figure, axes = _pyplot().subplots(figsize=(width, height), layout="constrained")
    axes.grid(alpha=0.25)
    return figure, axes


def _save(figure: Any, path: Path) -> None:
    with atomic(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")
    _pyplot().close(figure)
