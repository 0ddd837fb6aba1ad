"""Plots of the page: coherence against copying, and n-novelty."""

from pathlib import Path
from typing import Any

from imagegram.report.runs import Run

METHOD_COLORS = {
    "ntd": "tab:red",
    "aligned": "tab:blue",
    "smoothed": "tab:green",
    "soft": "tab:purple",
    "kernel": "tab:orange",
}


def frontier(path: Path, runs: list[Run]) -> None:
    """Coherence against P(closer), with intervals: copiers are to the right, chaos is at the bottom; hollow where
    exact copies may be above 1 %."""
    from adjustText import adjust_text

    figure, axes = _axes(7.5, 5.2)
    axes.axvspan(0.4, 0.65, ymin=0, color="0.93", zorder=0)
    axes.axhline(0, color="0.6", lw=1, ls=":")
    axes.plot(0.5, 1, "*", color="black", ms=16)
    names = [axes.text(0.5, 1, "held-out real", fontsize=8, fontweight="bold")]
    for run in runs:
        x, y = run.figures["closer_than_held_out"], run.figures["coherence"]
        color, copies = METHOD_COLORS[run.sampler.method], run.figures["exact_copies"]["high"] > 0.01
        for horizontal, vertical in (
            ([x["low"], x["high"]], [y["value"]] * 2),
            ([x["value"]] * 2, [y["low"], y["high"]]),
        ):
            axes.plot(horizontal, vertical, color=color, lw=1)
        axes.plot(x["value"], y["value"], "o", color=color, mfc="white" if copies else color, ms=7)
        names.append(axes.text(x["value"], y["value"], run.name, fontsize=8))
    axes.set(
        xlabel="P(closer to the training set than a held-out image)",
        ylabel="coherence",
        xlim=(-0.02, 1.15),
    )
    figure.canvas.draw()
    figure.set_layout_engine("none")  # the layout stays as it was drawn
    adjust_text(names, ax=axes, expand=(1.25, 1.7), arrowprops={"arrowstyle": "-", "color": "0.6", "lw": 0.7})
    figure.savefig(path, dpi=110)


def novelty(path: Path, runs: list[Run], control: list[float]) -> None:
    """The n-novelty curves of `runs` and of the held-out images."""
    figure, axes = _axes(7.5, 3.6)
    axes.plot(range(1, len(control) + 1), control, "k--", lw=2, label="held-out real")
    styles = ("-", "--", ":", "-.")
    for run in runs:
        curve, alike = run.figures["novelty"], [r.name for r in runs if r.sampler.method == run.sampler.method]
        color, style = METHOD_COLORS[run.sampler.method], styles[alike.index(run.name) % len(styles)]
        axes.plot(range(1, len(curve) + 1), curve, style, color=color, lw=1.2, label=run.name)
    axes.set(xlabel="n", ylabel="share of n-grams not in the index", xlim=(1, len(control)))
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=8)
    figure.savefig(path, dpi=110)


def _axes(width: float, height: float) -> Any:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(width, height), layout="constrained")
    axes.grid(alpha=0.25)
    return figure, axes
