"""Figures with their intervals: rates, means, and the chance that one set of images lies nearer than another."""

from collections.abc import Callable
from typing import Any, NotRequired, TypedDict

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest, mannwhitneyu

RESAMPLES = 1000
Numbers = NDArray[Any]  # of any dtype


class Figure(TypedDict):
    """A value with its 95 % interval, as it stands in report.json."""

    value: float
    low: float
    high: float
    p_value: NotRequired[float]


def wilson(hits: int, n: int) -> Figure:
    """A rate with Wilson's score interval (1927): sound at 0 and at n hits, where hits / n +- 2 sigma is not."""
    interval = binomtest(hits, n).proportion_ci(0.95, method="wilson")
    return {"value": hits / n, "low": float(interval.low), "high": float(interval.high)}


def bootstrap(
    statistic: Callable[..., float], samples: tuple[Numbers, ...], rng: np.random.Generator, resamples: int = RESAMPLES
) -> Figure:
    """`statistic` of `samples`, each [n_i], with the percentile bootstrap's interval; each sample is drawn from anew.

    A resample whose statistic is nan is left out.
    """
    draws = []
    for _ in range(resamples):
        again = [values[rng.integers(0, len(values), len(values))] for values in samples]
        draws.append(statistic(*again))
    low, high = np.nanpercentile(draws, [2.5, 97.5])
    return {"value": float(statistic(*samples)), "low": float(low), "high": float(high)}


def mean(values: Numbers, rng: np.random.Generator) -> Figure:
    """A mean with its percentile bootstrap interval."""
    return bootstrap(np.mean, (values,), rng)


def scaled(figure: Figure, factor: float) -> Figure:
    """A figure times a number."""
    return {"value": figure["value"] * factor, "low": figure["low"] * factor, "high": figure["high"] * factor}


def probability_closer(generated: Numbers, held_out: Numbers, rng: np.random.Generator) -> Figure:
    """P(d_generated < d_held_out), ties counted half, of distances to the nearest training image [n] and [m].

    0.5 where generated images are as far from the training set as real ones that the index never saw, 1 for a copier.
    It is the statistic of Mann & Whitney divided by n m, and that of the three-sample test of Meehan et al. (2020,
    arXiv:2004.05675). Bootstrap over both; `p_value` is Mann & Whitney's, two-sided, that both are as far.
    """

    def estimate(a: Numbers, b: Numbers) -> float:
        ordered = np.sort(b)
        above = len(b) - np.searchsorted(ordered, a, "right")
        below = np.searchsorted(ordered, a, "left")
        return float((above + len(b) - below).mean() / (2 * len(b)))

    figure = bootstrap(estimate, (generated, held_out), rng)
    figure["p_value"] = float(mannwhitneyu(generated, held_out).pvalue)
    return figure
