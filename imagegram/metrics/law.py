"""How P(exact copy) of a plain n-gram sampler falls with the corpus, from subsets of the corpus at
hand.

A copy of a training image goes on unless another image that shares the context takes over. The mean
number of such competitors of an image is counted exactly (counting.py) and grows in proportion to
the corpus, N: it is N L times a difference of collision probabilities of n-grams. Half of it, u, is
-ln P(copy) while competitors are few: of two images that share a context each is left for the other
one time in two. When there are more, most of them meet in the same few images, which have lost
already, and P(copy) lives on in the isolated ones. So

    f(N) = -ln P(copy) = u / (1 + u / b) ^ (1 - g),  u = N * competitors / (2 * images at hand)

b and g are fitted to f of nested subsets, which is known exactly, with weak priors: b near 0.3, to
a factor of 50, g = 0.4 to +-0.4. These were chosen on 82,000 procedural scenes and 54,000 images of
Fashion-MNIST, for predictions of eight to sixteen times the images.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq, least_squares

from imagegram.metrics.intervals import Figure

Floats = NDArray[np.float64]

BEND = 0.3  # prior of b
BEND_SPREAD = 2.0  # of ln b, as a standard deviation
SLOPE = 0.4  # prior of g
SLOPE_SPREAD = 0.2
MODEL_ERROR = 0.03  # of ln f, as a standard deviation, besides that of counting
COUNT_ERROR = 0.05  # of ln u, likewise
NOTHING = 1e-12  # f below this is none, and the error of sums
MOST_TIMES = 1e6  # the corpus at hand, beyond which no size is named


@dataclass(frozen=True)
class Law:
    """The fitted f(N); `images` is the corpus that it was fitted on."""

    images: int
    parameters: Floats  # ln u and ln(u / b) of that corpus, g: [3]
    covariance: Floats  # [3, 3]

    def log_copy(self, images: float, deviations: float = 0.0) -> float:
        """-ln P(copy) with `images`, a number of standard deviations above the estimate."""
        x = np.log(images / self.images)
        slopes = _slopes(self.parameters, x)
        spread = np.sqrt(slopes @ self.covariance @ slopes)
        return float(np.exp(_log_f(self.parameters, x) + deviations * spread))

    def copy_probability(self, images: float) -> Figure:
        """P(copy) with `images`, and the 95 % interval of the fit."""
        log_copy = [self.log_copy(images, deviations) for deviations in (0, 2, -2)]
        return Figure(*np.exp(np.negative(log_copy)).tolist())

    def images_for(self, probability: float) -> float:
        """The images at which P(copy) is `probability`; infinite beyond MOST_TIMES as many."""
        wanted = -np.log(probability)

        def missing(log_images: float) -> float:
            return float(np.log(self.log_copy(np.exp(log_images)) / wanted))

        low, high = np.log(self.images / MOST_TIMES), np.log(self.images * MOST_TIMES)
        if missing(high) < 0:
            return float("inf")
        return float(np.exp(brentq(missing, low, high) if missing(low) < 0 else low))


def _log_f(parameters: Floats, x: Floats | float) -> Floats:
    """ln f at ln(N / images) = x."""
    scale, bend, slope = parameters
    return np.asarray(scale + x - (1 - slope) * np.logaddexp(0, bend + x))


def _slopes(parameters: Floats, x: float) -> Floats:
    """The derivatives of ln f by the parameters: [3]."""
    _, bend, slope = parameters
    past = 1 / (1 + np.exp(-bend - x))
    return np.array([1.0, -(1 - slope) * past, np.logaddexp(0, bend + x)])


def fit_law(
    images: list[int], log_copy: list[float], corpora: list[int], competitors: float
) -> Law | None:
    """Fit to -ln P(copy), each the mean over disjoint `corpora` of `images`; the last is the whole
    corpus.

    competitors: of an image of the whole corpus, `CopyFigures.competitors`. None where there are
    none: nothing can be said then but that P(copy) is 1.
    """
    if competitors == 0 or log_copy[-1] <= NOTHING:
        return None
    whole = images[-1]
    f, sizes, times = np.array([log_copy, images, corpora])[:, np.array(log_copy) > NOTHING]
    x = np.log(sizes / whole)
    u = np.log(competitors / 2)

    # Competitors are met one by one: their number has a Poisson distribution.
    events = f * (sizes * times)
    spread = np.sqrt(1 / events + MODEL_ERROR**2)
    spread_of_u = np.sqrt(2 / (competitors * whole) + COUNT_ERROR**2)

    def residuals(parameters: Floats) -> Floats:
        data = (_log_f(parameters, x) - np.log(f)) / spread
        priors = [
            (parameters[0] - u) / spread_of_u,
            (parameters[1] - u + np.log(BEND)) / BEND_SPREAD,
            (parameters[2] - SLOPE) / SLOPE_SPREAD,
        ]
        return np.concatenate([data, priors])

    # From several starts: an early bend that is slight and a late one that is sharp can both fit.
    starts = [np.array([u, u - np.log(BEND) + shift, SLOPE]) for shift in (-2, 0, 2)]
    fits = [least_squares(residuals, start) for start in starts]
    fitted = min(fits, key=lambda result: result.cost)
    return Law(whole, fitted.x, np.linalg.inv(fitted.jac.T @ fitted.jac))
