"""Coherence against copying, the plot of the page, and a night's figures as tables."""

import csv
import io
import re
from typing import Any

import matplotlib
from matplotlib.figure import Figure as Plot

from imagegram.metrics import rule
from imagegram.metrics.intervals import Figure
from imagegram.metrics.registry import CLOSER, COHERENCE, IN_SHORT, Figures
from imagegram.report.pictures import colour_of
from imagegram.report.verdict import Run

INK = "#010203"  # stands for the colour of the text around the plot
MARKERS = "osD^vP*Xph<>"
# the same figures, the same bytes
NO_METADATA = dict.fromkeys(("Date", "Creator", "Format", "Type"))
COLOURED = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")
STYLE: dict[Any, Any] = {"svg.fonttype": "none", "svg.hashsalt": "imagegram", "font.size": 14}
STYLE |= dict.fromkeys(COLOURED, INK)


def frontier(runs: list[Run], kind: str = "svg") -> bytes:
    """Coherence against P(closer) of the runs that have both, with 95 % intervals; nothing where
    none has.

    An SVG has the colour of the text around it, so that it can be read in light and in dark.
    Hollow: may copy more than real images do.
    """
    known = [run for run in runs if COHERENCE.of(run.figures) and CLOSER.of(run.figures)]
    if not known:
        return b""
    with matplotlib.rc_context(STYLE if kind == "svg" else {}):
        figure = Plot(figsize=(6.6, 4.6 + 0.1 * len(known)), layout="constrained")
        axes = figure.subplots()
        axes.axhline(1, color="#8884", zorder=0)
        axes.axvspan(rule.LEAST_CLOSER, rule.MOST_CLOSER, color="#2a8f4f22", lw=0)
        axes.plot(0.5, 1, "*", ms=16, color="#b8690b", label="held-out real images", ls="")
        for number, run in enumerate(known):
            x, y = run.figures[CLOSER.key], run.figures[COHERENCE.key]
            dy, dx = ([[each.value - each.low], [each.high - each.value]] for each in (y, x))
            look: dict[str, Any] = {"color": colour_of(run.name), "label": run.name}
            if rule.copies(run.figures):
                look["markerfacecolor"] = "none"
            marker = MARKERS[number % len(MARKERS)]
            axes.errorbar(x.value, y.value, dy, dx, fmt=marker, **look)
        what = "P(closer to the training images than held out)"
        axes.set(xlabel=what, ylabel="coherence", xlim=(-0.02, 1.02))
        figure.legend(loc="outside lower center", ncols=3, frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
        file = io.BytesIO()
        options = {"transparent": True, "metadata": NO_METADATA} if kind == "svg" else {"dpi": 130}
        figure.savefig(file, format=kind, **options)
    return file.getvalue().replace(INK.encode(), b"currentColor")


def tables(runs: list[Run], real: Figures) -> dict[str, str]:
    """figures.csv: all figures with intervals; figures.md, figures.tex: those a night ends with."""
    rows = [("held-out", "", real), *((run.name, run.settings, run.figures) for run in runs)]
    table = io.StringIO()
    writer = csv.writer(table)
    writer.writerow(["sampler", "settings", "figure", "value", "low", "high"])
    short = [["sampler", *(metric.title for metric in IN_SHORT)]]
    for name, settings, figures in rows:
        for key, each in figures.items():
            if isinstance(each, Figure):
                writer.writerow([name, settings, key, each.value, each.low, each.high])
        short.append([name, *(metric.text(figures) for metric in IN_SHORT)])
    markdown = ["| " + " | ".join(row) + " |" for row in short]
    markdown.insert(1, "| --- " * len(short[0]) + "|")
    escaped = [[re.sub(r"([%_&#$])", r"\\\1", cell) for cell in row] for row in short]
    latex = [" & ".join(row) + r" \\" for row in escaped]
    begin = rf"\begin{{tabular}}{{l{'r' * len(IN_SHORT)}}}"
    return {
        "figures.csv": table.getvalue(),
        "figures.md": "\n".join([*markdown, ""]),
        "figures.tex": "\n".join([begin, *latex, r"\end{tabular}", ""]),
    }
