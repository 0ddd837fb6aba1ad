"""Intervals are the score interval and cover what they should; P(closer) is what brute force counts."""

import numpy as np
import pytest

from imagegram.metrics.intervals import mean, probability_closer, wilson


def test_wilson_is_the_score_interval() -> None:
    for hits, n in ((0, 2000), (27, 50), (50, 50), (540, 1000)):
        figure = wilson(hits, n)
        for bound in (figure.low, figure.high):
            if 0 < bound < 1:  # the score test is exactly at its limit there
                assert abs(hits / n - bound) / np.sqrt(bound * (1 - bound) / n) == pytest.approx(1.96, abs=1e-3)
    assert wilson(0, 2000).high == pytest.approx(0.0019, abs=1e-4)
    assert (wilson(0, 9).low, wilson(9, 9).high) == (0, 1)


def test_the_bootstraps_interval_is_the_normal_one_where_that_is_right() -> None:
    values = np.random.default_rng(1).exponential(1.0, 2000)
    figure = mean(values, np.random.default_rng(2))
    error = values.std() / np.sqrt(2000)
    assert (figure.low - values.mean()) / error == pytest.approx(-1.96, abs=0.15)  # -1.64 of 90 %
    assert (figure.high - values.mean()) / error == pytest.approx(1.96, abs=0.15)


def test_closer_is_the_probability_that_a_generated_image_is_nearer() -> None:
    rng = np.random.default_rng(2)
    a = rng.integers(0, 10, 300)
    b = rng.integers(3, 13, 200)
    expected = ((a[:, None] < b).mean() + 0.5 * (a[:, None] == b).mean()).item()
    figure = probability_closer(a, b, rng)
    assert figure.value == pytest.approx(expected)
    assert figure.low < expected < figure.high
    assert probability_closer(np.zeros(50), np.full(50, 9), rng).value == 1
    assert probability_closer(b, b, rng).value == pytest.approx(0.5)
