"""The law of copying is recovered from its own values, and predicts what it was not fitted to."""

from typing import Any

import numpy as np
import pytest

from imagegram.metrics.law import Law, fit_law

SIZES = [1000 * 2**i for i in range(8)]


def law(u: float, bend: float, slope: float) -> Law:
    """The law with this u for 128,000 images."""
    return Law(SIZES[-1], np.array([np.log(u), np.log(u / bend), slope]), np.zeros((3, 3)))


def fitted(true: Law, off: Any) -> Law:
    """What is fitted to a law whose values are measured wrong by these factors."""
    seen = [true.log_copy(n) * factor for n, factor in zip(SIZES, off, strict=True)]
    found = fit_law(SIZES, seen, [4] * len(SIZES), 2 * np.exp(true.parameters[0]))
    assert found is not None
    return found


@pytest.mark.parametrize(
    "true", [law(2, 0.5, 0.4), law(0.5, 1, 0.3), law(0.01, 0.3, 0.4), law(30, 0.1, 0.2)]
)
def test_the_law_is_recovered_and_predicts_a_hundred_times_the_images(true: Law) -> None:
    found = fitted(true, [1.0] * len(SIZES))
    for times in (10, 100):
        truth = np.exp(-true.log_copy(times * SIZES[-1]))
        figure = found.copy_probability(times * SIZES[-1])
        assert figure.value == pytest.approx(truth, abs=0.1)
        assert figure.low - 0.02 <= truth <= figure.high + 0.02


def test_the_law_is_the_formula_of_the_documentation() -> None:
    competitors = 2 * 30.0 * 10  # u is half of that, at ten times the images
    u = competitors / 2
    assert law(30, 0.1, 0.2).log_copy(10 * SIZES[-1]) == pytest.approx(u / (1 + u / 0.1) ** 0.8)


def test_the_interval_holds_what_was_measured_with_an_error_of_three_percent() -> None:
    true = law(2, 0.5, 0.4)
    rng = np.random.default_rng(0)
    truth = np.exp(-true.log_copy(SIZES[-1]))
    inside, widths = 0, []
    for _ in range(60):
        found = fitted(true, np.exp(0.03 * rng.normal(size=len(SIZES))))
        figure = found.copy_probability(SIZES[-1])
        inside += figure.low <= truth <= figure.high
        widths.append(found.log_copy(SIZES[-1], 2) / found.log_copy(SIZES[-1]))
    assert inside >= 52
    assert max(widths) < np.exp(2 * 0.03)  # several sizes say more than one of them


def test_images_for_is_the_inverse() -> None:
    true = law(0.5, 1, 0.3)
    for probability in (0.9, 0.5, 0.1):
        assert np.exp(-true.log_copy(true.images_for(probability))) == pytest.approx(probability)
    assert law(1e-9, 0.3, 0.4).images_for(0.1) == np.inf


def test_few_competitors_grow_in_proportion_and_without_any_nothing_is_said() -> None:
    found = fit_law([1000, 2000, 4000], [0.0, 0.0, 0.001], [4, 2, 1], 0.002)
    assert found is not None
    assert found.log_copy(8000) == pytest.approx(0.002, rel=0.05)
    assert fit_law([1000, 2000], [0.0, 0.0], [2, 1], 0.0) is None


def test_where_nothing_is_seen_the_priors_speak() -> None:
    """b is about 0.3, g 0.4; u is known to its Poisson count and 5 %, f to its events and 3 %."""
    found = fit_law([4000], [0.001], [2], 0.002)
    assert found is not None
    scale, bend, slope = found.parameters
    assert np.exp(scale - bend) == pytest.approx(0.3, rel=0.02)
    assert slope == pytest.approx(0.4, abs=0.005)
    events, of_u = 0.001 * 4000 * 2, 2 / (0.002 * 4000) + 0.05**2
    variance = 1 / (1 / (1 / events + 0.03**2) + 1 / of_u)
    assert found.covariance[0, 0] == pytest.approx(variance, rel=0.02)
    assert np.sqrt(np.diag(found.covariance)[1:]) == pytest.approx([2.0, 0.2], rel=0.06)
