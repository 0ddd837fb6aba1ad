"""Exact figures of a sampler from its likelihood, a product of next-token distributions: no sample
is drawn, and rates far below 1 / n are resolved.

- exact_copy_probability: the chance that a drawn sequence equals a training sequence, the sum over
  the distinct ones;
- held_out_bits, training_bits: -log2 p of a token of images, the cross-entropy. A sampler that
  gives some tokens no chance has infinite bits; here a p + (1 - a) / V is taken for it, with a
  fitted to the training images, each left out;
- extraction: the chance that the rest of a training image follows after its first 1, 2, 4, ...
  tokens (Carlini et al., 2021, arXiv:2012.07805), and of held-out images for comparison.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from imagegram.index.folder import Index
from imagegram.metrics.intervals import Figure, mean
from imagegram.samplers import Sampler

MOST_TRAINING = 2000  # distinct training images that stand for all of them
MOST_HELD_OUT = 1000
MOST_LEFT_OUT = 500  # training images that fit the share of the floor
Floats = NDArray[np.float64]


def exact_figures(
    index: Index, sampler: Sampler, held_out: NDArray[np.uint16], rng: np.random.Generator
) -> dict[str, Any]:
    """The figures above, of whole sequences; `held_out` [M, L] may be empty. At most MOST_TRAINING
    distinct training images are asked (`exact_copy_images`), chosen at random; where these are not
    all, what they say has the bootstrap's interval."""
    share_asked = sampler.affordable_share(index, MOST_TRAINING + MOST_HELD_OUT + MOST_LEFT_OUT)
    distinct, rows = np.unique(index.tokens, axis=0, return_index=True)
    chosen = _some(len(distinct), int(share_asked * MOST_TRAINING), rng)
    training = sampler.probabilities(index, distinct[chosen])
    left_out_rows = rows[_some(len(rows), int(share_asked * MOST_LEFT_OUT), rng)]
    left_out = sampler.probabilities(index, index.tokens[left_out_rows], leave_out=left_out_rows)
    share = floor_share(left_out, index.vocab_size)

    chances = training.prod(1)
    if len(chances) == len(distinct):
        total = Figure.exactly(float(chances.sum()))
    else:
        total = mean(chances, rng).scaled(len(distinct))
    figures: dict[str, Any] = {
        "exact_copy_probability": total,
        "exact_copy_images": len(chosen),
        "distinct_training_images": len(distinct),
        "floor_share": 1 - share,
        "training_bits": mean(bits(training, share, index.vocab_size).mean(1), rng),
        "left_out_bits": mean(bits(left_out, share, index.vocab_size).mean(1), rng),
        "extraction": {"training": extraction(training, rng)},
    }
    if len(held_out):
        some = _some(len(held_out), int(share_asked * MOST_HELD_OUT), rng)
        real = sampler.probabilities(index, held_out[some])
        each = bits(real, share, index.vocab_size)
        figures["held_out_bits"] = mean(each.mean(1), rng)
        figures["held_out_bits_by_position"] = each.mean(0).round(4).tolist()
        figures["extraction"]["held_out"] = extraction(real, rng)
    return figures


def _some(n: int, most: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """At most `most` of n, at random, in order."""
    return np.sort(rng.permutation(n)[:most])


def floor_share(left_out: Floats, vocab_size: int) -> float:
    """The a of a p + (1 - a) / V that predicts best, from leave-one-out probabilities [n, L]."""

    def share(logit: float) -> float:
        return float(1 / (1 + np.exp(-logit)))

    def loss(logit: float) -> float:
        return float(bits(left_out, share(logit), vocab_size).mean())

    return share(minimize_scalar(loss, bounds=(-12, 12), method="bounded").x)


def bits(p: Floats, share: float, vocab_size: int) -> Floats:
    """-log2 of a p + (1 - a) / V, a = `share`, of every token: float64 [n, L]."""
    return -np.log2(share * p + (1 - share) / vocab_size)


def extraction(p: Floats, rng: np.random.Generator) -> dict[str, Figure]:
    """The mean chance that all tokens after the first 1, 2, 4, ... follow, from p [n, L]."""
    length = p.shape[1]
    starts = [2**i for i in range((length - 1).bit_length())]
    return {str(start): mean(p[:, start:].prod(1), rng) for start in starts}
