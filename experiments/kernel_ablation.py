"""What the parts of moved votes are worth: held-out bits a token of each variant.

    python -m experiments.kernel_ablation --index data/demo/index      # the digits: minutes on two cores

Every variant is fitted to the training images by their leave-one-out likelihood, as the default is, and predicts the
held-out images, which nothing was fitted to. Prints a table in Markdown: held-out bits, and how many more than the
default's, a paired difference over the same images with its 95 % interval by the bootstrap.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from experiments.common import Corpus
from imagegram.cli import run_script, summary
from imagegram.index.folder import Index
from imagegram.machine import choose_device
from imagegram.metrics.intervals import mean
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

    def __init__(self, levels: tuple[int, ...], tokens_per_image: int, rank: int, images: int):
        super().__init__(levels, tokens_per_image, rank, images)
        self.codes.requires_grad_(False)
        self.edges.requires_grad_(False)


class AllAlike(MovedVotes):
    """All images vote alike: the regression and the spread of its errors."""

    def __init__(self, levels: tuple[int, ...], tokens_per_image: int, rank: int, images: int):
        super().__init__(levels, tokens_per_image, rank, images)
        self.sharpness.requires_grad_(False).fill_(-50)


# kind of model, seed, rank (0: the default)
VARIANTS = {
    "the default": (MovedVotes, 0, 0),
    "the default, another seed": (MovedVotes, 1, 0),
    "moved linearly": (MovedLinearly, 0, 0),
    "not moved": (Unmoved, 0, 0),
    "all images vote alike": (AllAlike, 0, 0),
    "digits and edges where the quantizer has them": (GivenCodes, 0, 0),
    "4 projected numbers of a context": (MovedVotes, 0, 4),
    "8 of them": (MovedVotes, 0, 8),
    "16 of them": (MovedVotes, 0, 16),
    "32 of them": (MovedVotes, 0, 32),
}


@dataclass
class Config:
    index: Path = Path("data/index")


def fitted_bits(index: Index, held_out: NDArray[np.uint16], *, kind: type[MovedVotes], seed: int, rank: int) -> Floats:
    """Bits a token of every held-out image, by a variant fitted to the training images: float64 [M]."""
    model = fit(index.tokens, index.levels, choose_device(), seed=seed, kind=kind, rank=rank)
    return -np.log2(model_probabilities(model, index.tokens, held_out, Drawing())).mean(1)


def main(config: Config) -> None:
    corpus = Corpus.open(config.index)
    index, held_out = corpus.index, corpus.held_out.tokens
    rng = np.random.default_rng(0)
    measured: dict[str, Floats] = {}
    print("| variant | held-out bits | more than the default |\n| --- | --- | --- |")
    for name, (kind, seed, rank) in VARIANTS.items():
        bits = measured[name] = fitted_bits(index, held_out, kind=kind, seed=seed, rank=rank)
        more = mean(bits - measured["the default"], rng)
        difference = f"{more.value:+.3f} [{more.low:+.3f}, {more.high:+.3f}]"
        print(f"| {name} | {bits.mean():.3f} | {difference if len(measured) > 1 else ''} |", flush=True)
    means = {name: bits.mean() for name, bits in measured.items()}
    summary(training_images=index.num_images, held_out_images=len(held_out), **means)


if __name__ == "__main__":
    sys.exit(run_script(main, Config, __doc__))
