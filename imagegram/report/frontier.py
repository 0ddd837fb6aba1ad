"""The plot of the page, coherence against copying: places in percent, so that its type has the size of the page's."""

from collections.abc import Callable
from dataclasses import dataclass

from imagegram.metrics import rule
from imagegram.metrics.intervals import Figure
from imagegram.metrics.registry import CLOSER, COHERENCE
from imagegram.report.pictures import colour_of
from imagegram.report.verdict import Run

LABEL = 6.5  # percent of the height that a name takes
Scale = Callable[[float], float]  # a figure -> percent of the plot


@dataclass
class Point:
    """A run in the plot: x and y with their intervals in percent of its width and height, from the lower left."""

    name: str
    colour: str
    x: Figure
    y: Figure
    copies: bool  # may copy more than real images do
    label_y: float
    left: bool  # its name stands to the left


@dataclass(frozen=True)
class Frontier:
    """Coherence against P(closer): copiers are to the right, independent tokens are at the bottom."""

    points: list[Point]
    ticks_y: list[tuple[float, str]]
    ticks_x: list[tuple[float, str]]
    real: tuple[float, float]  # where held-out real images are
    band: tuple[float, float]  # of P(closer) as real images have it: left end and width


def frontier(runs: list[Run]) -> Frontier | None:
    """The plot of the runs whose figures are known; None where there are none."""
    known = [run for run in runs if COHERENCE.of(run.figures) and CLOSER.of(run.figures)]
    if not known:
        return None
    coherence = [run.figures[COHERENCE.key] for run in known]
    low = min(-0.1, *(figure.low for figure in coherence)) - 0.05
    high = max(1.1, *(figure.high for figure in coherence)) + 0.05

    def across(value: float) -> float:
        return 100 * (value + 0.02) / 1.04

    def up(value: float) -> float:
        return 100 * (value - low) / (high - low)

    points = [_point(run, across, up) for run in known]
    for left in (True, False):
        _spread([point for point in points if point.left == left])
    return Frontier(
        points=points,
        ticks_y=[(up(value), f"{value:g}") for value in (0, 0.25, 0.5, 0.75, 1)],
        ticks_x=[(across(value), f"{value:g}") for value in (0, 0.25, 0.5, 0.75, 1)],
        real=(across(0.5), up(1)),
        band=(across(rule.LEAST_CLOSER), across(rule.MOST_CLOSER) - across(rule.LEAST_CLOSER)),
    )


def _point(run: Run, across: Scale, up: Scale) -> Point:
    x, y = (
        Figure(scale(figure.value), scale(figure.low), scale(figure.high))
        for scale, figure in ((across, run.figures[CLOSER.key]), (up, run.figures[COHERENCE.key]))
    )
    left = run.figures[CLOSER.key].value > 0.6
    return Point(run.name, colour_of(run.name), x, y, rule.copies(run.figures), label_y=y.value, left=left)


def _spread(points: list[Point]) -> None:
    """Move the names of points on one side apart, downwards from the highest."""
    ceiling = 100.0
    for point in sorted(points, key=lambda point: -point.y.value):
        point.label_y = min(point.label_y, ceiling)
        ceiling = point.label_y - LABEL
