"""What the parts of moved votes are worth: held-out bits a token of each variant.

    python -m experiments.kernel_ablation --index data/demo/index  # the digits: minutes

Every variant is fitted to the training images by their leave-one-out likelihood, as the default is,
and predicts the held-out images, which nothing was fitted to. Prints a table in Markdown: held-out
bits, and how many more than the default's, a paired difference over the same images with its 95 %
interval by the bootstrap.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from experiments.common import Corpus, print_head, print_row
from imagegram.cli import run_script, summary
from imagegram.codec.fsq import fsq_digits
from imagegram.index.folder import Index
from imagegram.metrics.intervals import mean
from imagegram.samplers.kernel import fit as fit_file
from imagegram.samplers.kernel import model as model_file
from imagegram.samplers.kernel.drawing import Drawing, model_probabilities
from imagegram.samplers.kernel.fit import fit
from imagegram.samplers.kernel.model import MovedVotes
from imagegram.samplers.kernel.regression import Regression

Floats = NDArray[np.float64]


class Unmoved(MovedVotes):
    """Images offer their own digits: votes alone, a local constant."""

    def means(self, digits: Tensor, position: int, expected: Tensor | None = None) -> Tensor:
        return torch.zeros((len(digits), self.digits), device=digits.device)

    def residuals(self, digits: Tensor, position: int, images: Tensor) -> Tensor:
        return self.own_codes(digits, position)


class LinearRegression(Regression):
    """Nearness to landmarks, and products of digits, cost so much that they are not used."""

    ridge_of_nearness = ridge_of_products = 1e9


class MovedLinearly(MovedVotes):
    """The move is linear in the difference of the contexts."""

    regression = LinearRegression


class GivenCodes(MovedVotes):
    """For the distance, digits lie where the quantizer has them, and so do the edges of steps."""

    def __init__(self, *sizes: Any):
        super().__init__(*sizes)
        self.codes.requires_grad_(False)
        self.edges.requires_grad_(False)


class AllAlike(MovedVotes):
    """All images vote alike: the regression and the spread of its errors."""

    def __init__(self, *sizes: Any):
        super().__init__(*sizes)
        self.sharpness.requires_grad_(False).fill_(-50)


def fitted_bits(index: Index, held_out: NDArray[np.uint16], **variant: Any) -> Floats:
    """Bits a token of every held-out image [M], by a variant (options of `fit`) that is fitted to
    the training images."""
    model = fit(index.tokens, index.levels, **variant)
    return -np.log2(model_probabilities(model, index.tokens, held_out, Drawing())).mean(1)


def bits_of_a_vote_a_digit(index: Index, held_out: NDArray[np.uint16]) -> Floats:
    """The same where every digit has votes of its own, which know the digits before it in its
    token: the images are given as sequences of digits. So a token comes from several images, and
    none is its source."""
    levels = index.levels[:1]
    assert set(index.levels) == set(levels), "digits of one size"
    training, asked = (
        fsq_digits(tokens, index.levels).reshape(len(tokens), -1).astype(np.uint16)
        for tokens in (index.tokens, held_out)
    )
    digits = training.shape[1]
    wide = fit_file.WIDE_TOKENS * len(index.levels)
    with (
        # Every digit has numbers of its own, and all digits before it for its context.
        patch.multiple(model_file, FIRST_TOKENS=digits, OWN_TOKENS=digits),
        patch.multiple(fit_file, OWN_TOKENS=digits, WIDE_TOKENS=wide),
    ):
        model = fit(training, levels)
        chances = model_probabilities(model, training, asked, Drawing())
    return -np.log2(chances).sum(1) / index.tokens_per_image


VARIANTS: dict[str, Callable[[Index, NDArray[np.uint16]], Floats]] = {
    "the default": fitted_bits,
    "the default, another seed": partial(fitted_bits, seed=1),
    "moved linearly": partial(fitted_bits, kind=MovedLinearly),
    "not moved": partial(fitted_bits, kind=Unmoved),
    "all images vote alike": partial(fitted_bits, kind=AllAlike),
    "digits and edges where the quantizer has them": partial(fitted_bits, kind=GivenCodes),
    "a vote a digit: no source": bits_of_a_vote_a_digit,
}
for rank in (4, 8, 16, 32):
    VARIANTS[f"{rank} projected numbers of a context"] = partial(fitted_bits, rank=rank)


@dataclass
class Config:
    index: Path = Path("data/index")
    asked: int = 0  # held-out images, a random sample of them; 0: all


def main(config: Config) -> None:
    corpus = Corpus.open(config.index)
    index, held_out = corpus.index, corpus.held_out.tokens
    rng = np.random.default_rng(0)
    if config.asked:
        held_out = held_out[rng.permutation(len(held_out))[: config.asked]]
    measured: dict[str, Floats] = {}
    print_head("variant", "held-out bits", "more than the default")
    for name, ask in VARIANTS.items():
        bits = measured[name] = ask(index, held_out)
        more = mean(bits - measured["the default"], rng)
        difference = f"{more.value:+.3f} [{more.low:+.3f}, {more.high:+.3f}]"
        print_row(name, f"{bits.mean():.3f}", difference if len(measured) > 1 else "")
    means = {name: bits.mean() for name, bits in measured.items()}
    summary(training_images=index.num_images, held_out_images=len(held_out), **means)


if __name__ == "__main__":
    sys.exit(run_script(main, Config, __doc__))
