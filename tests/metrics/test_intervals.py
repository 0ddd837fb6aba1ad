"""Intervals cover what they should; P(closer) is what brute force counts."""

import numpy as np
import pytest

from imagegram.metrics.intervals import Figure, bootstrap, mean, probability_closer, wilson


def test_wilson_is_the_score_interval() -> None:
    for hits, n in ((0, 2000), (27, 50), (50, 50), (540, 1000)):
        figure = wilson(hits, n)
        for bound in (figure.low, figure.high):
            if 0 < bound < 1:  # the score test is exactly at its limit there
                score = abs(hits / n - bound) / np.sqrt(bound * (1 - bound) / n)
                assert score == pytest.approx(1.96, abs=1e-3)
    assert wilson(0, 2000).high == pytest.approx(0.0019, abs=1e-4)
    assert (wilson(0, 9).low, wilson(9, 9).high) == (0, 1)


def test_the_bootstraps_interval_is_the_normal_one_where_that_is_right() -> None:
    values = np.random.default_rng(1).exponential(1.0, 2000)
    figure = mean(values, np.random.default_rng(2))
    error = values.std() / np.sqrt(2000)
    assert (figure.low - values.mean()) / error == pytest.approx(-1.96, abs=0.15)  # -1.64 of 90 %
    assert (figure.high - values.mean()) / error == pytest.approx(1.96, abs=0.15)
    # The readable way, which resamples one by one, and of two samples, each drawn anew.
    slow = bootstrap(lambda a: float(a.mean()), (values,), np.random.default_rng(2))
    assert (slow.low, slow.high) == pytest.approx((figure.low, figure.high))
    fewer = values[:500]
    rng = np.random.default_rng(3)
    both = bootstrap(lambda a, b: float(a.mean() - b.mean()), (values, fewer), rng)
    error = np.sqrt(values.var() / 2000 + fewer.var() / 500)
    assert both.value == pytest.approx(values.mean() - fewer.mean())
    assert (both.high - both.low) / error == pytest.approx(2 * 1.96, abs=0.2)


def test_an_interval_includes_its_ends_and_is_scaled_as_a_whole() -> None:
    figure = Figure(0.5, 0.25, 1.0)
    assert [x for x in (0.24, 0.25, 1.0, 1.01) if figure.includes(x)] == [0.25, 1.0]
    assert str(figure) == "0.50 (0.25 to 1.00)"
    assert figure.scaled(4) == Figure(2.0, 1.0, 4.0)
    assert Figure.exactly(3).scaled(2) == Figure.exactly(6)


def test_closer_is_the_probability_that_a_generated_image_is_nearer() -> None:
    rng = np.random.default_rng(2)
    a = rng.integers(0, 10, 300)
    b = rng.integers(3, 13, 200)
    expected = float((a[:, None] < b).mean() + 0.5 * (a[:, None] == b).mean())
    figure = probability_closer(a, b, rng)
    assert figure.value == pytest.approx(expected)
    assert figure.low < expected < figure.high
    assert probability_closer(np.zeros(50), np.full(50, 9), rng).value == 1
    assert probability_closer(b, b, rng).value == pytest.approx(0.5)
