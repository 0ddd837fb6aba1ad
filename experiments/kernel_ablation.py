"""What the parts of the kernel n-gram are worth, and what was tried besides: held-out bits a token of each variant.

    python -m experiments.kernel_ablation --index data/demo/index      # the digits: minutes on two cores

Every variant is fitted to the training images by their leave-one-out likelihood, as the default is, and predicts the
held-out images, which nothing was fitted to. Prints a table in Markdown: held-out bits, and how many more than the
default's, a paired difference over the same images with its 95 % interval by the bootstrap.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from imagegram.cli import UserError, run_script, summary
from imagegram.index.folder import Index
from imagegram.machine import choose_device
from imagegram.metrics.held_out import read_held_out
from imagegram.metrics.intervals import mean
from imagegram.samplers import Aligned, Kernel, Smoothed
from imagegram.samplers.kernel.fit import LIBRARY, fit
from imagegram.samplers.kernel.model import Kernel as KernelModel
from imagegram.samplers.kernel.model import digits_of

LEFT_OUT = 500  # training images that fit the shares of a mixture
AT_ONCE = 32  # images predicted together
Floats = NDArray[np.float64]


class EqualWidth(KernelModel):
    """The width does not grow where no image is near."""

    def width(self, place: int, nearest: Tensor) -> Tensor:
        return torch.ones_like(nearest)


class EighthNeighbour(KernelModel):
    """The eighth nearest image decides the width, not the nearest."""

    def votes(self, place: int, queries: Tensor, library: Tensor, own: Tensor | None = None) -> Tensor:
        distance = self.distances(place, queries, library, own)
        nearest = distance.detach().topk(min(8, distance.shape[1]), largest=False).values
        return torch.softmax(-distance / self.width(place, nearest[:, -1:]), 1)


class GivenCodes(KernelModel):
    """The digits lie where the quantizer has them, at equal steps: nothing is learned about it."""

    def __init__(self, levels: tuple[int, ...], tokens_per_image: int):
        super().__init__(levels, tokens_per_image)
        self.codes.requires_grad_(False)


class CodesInSpace(KernelModel):
    """A digit has a learned place in a space of three dimensions, not on a line."""

    DIMENSIONS = 3

    def __init__(self, levels: tuple[int, ...], tokens_per_image: int):
        super().__init__(levels, tokens_per_image)
        generator = torch.Generator().manual_seed(0)
        more = torch.randn((*self.codes.shape, self.DIMENSIONS - 1), generator=generator) / 5
        self.more_codes = nn.Parameter(more)

    def embed(self, digits: Tensor) -> Tensor:
        """[n, F'] -> [F', n, DIMENSIONS]."""
        codes = torch.cat([self.codes[..., None], self.more_codes], 2)[: digits.shape[1]]
        picked = digits.T.long()[..., None].expand(-1, -1, self.DIMENSIONS)
        return codes.gather(1, picked)

    def distances(self, place: int, queries: Tensor, library: Tensor, own: Tensor | None = None) -> Tensor:
        total = torch.zeros(queries.shape[1], library.shape[1])
        for dimension in range(self.DIMENSIONS):
            total = total + super().distances(place, queries[..., dimension], library[..., dimension], own)
        return total


class OneSetOfWeights(KernelModel):
    """All digits of a token weigh the earlier tokens alike."""

    def weights(self, place: int) -> Tensor:
        first = place - place % self.digits
        earlier = len(self.contexts[first])
        of_token = self.log_weights[first, :earlier]
        own = self.log_weights[place, earlier : len(self.contexts[place])]
        return torch.cat([of_token, own]).exp()


class DigitsApart(KernelModel):
    """Each digit of a token is predicted from the earlier tokens alone, not from the digits before it."""

    def __init__(self, levels: tuple[int, ...], tokens_per_image: int):
        super().__init__(levels, tokens_per_image)
        self.contexts = [self.contexts[place - place % self.digits] for place in range(self.places)]


class WholeTokens(KernelModel):
    """All digits of a token step from one and the same image."""

    def log2_probabilities(
        self, queries: Tensor, library: Tensor, places: Sequence[int], own: Tensor | None = None
    ) -> Tensor:
        """A token's probability stands at the place of its first digit, those of the others are 1."""
        x = self.embed(queries)
        y = self.embed(library)
        result = torch.zeros(len(queries), len(places))
        for column, first in enumerate(places):
            if first % self.digits:
                continue
            votes = self.votes(first, x, y, own)
            by_chance = torch.ones(2, len(queries))  # by the unigram of its digits, and by the floor
            for place in range(first, first + self.digits):
                digit = queries[:, place].long()
                votes = votes * self.steps(place)[:, digit].T[:, library[:, place].long()]
                floor = torch.full((len(queries),), 1 / self.levels[place % self.digits])
                by_chance = by_chance * torch.stack([self.unigram[place, digit], floor])
            shares = self.shares(first)
            result[:, column] = (shares[0] * votes.sum(1) + shares[1:] @ by_chance).log2()
        return result


VARIANTS = {
    "the default": (KernelModel, 0),
    "the default, another seed": (KernelModel, 1),
    "a width that is the same everywhere": (EqualWidth, 0),
    "the width from the 8th nearest image": (EighthNeighbour, 0),
    "digits where the quantizer has them": (GivenCodes, 0),
    "digits in three dimensions": (CodesInSpace, 0),
    "one set of weights for all digits of a token": (OneSetOfWeights, 0),
    "each digit from earlier tokens alone": (DigitsApart, 0),
    "whole tokens step from one image": (WholeTokens, 0),
}


@dataclass
class Config:
    index: Path = Path("data/index")


def fitted_bits(index: Index, held_out: NDArray[np.uint16], kind: type[KernelModel], seed: int) -> Floats:
    """Bits a token of every held-out image, by a variant fitted to the training images: float64 [M]."""
    device = choose_device()
    model = fit(index.tokens, index.levels, device, seed, kind)
    training = digits_of(index.tokens, index.levels, device)
    parts = digits_of(held_out, index.levels, device).split(AT_ONCE)
    with torch.inference_mode():
        logs = torch.cat([model.log2_probabilities(part, training, range(model.places)) for part in parts])
    return -logs.double().sum(1).cpu().numpy() / index.tokens_per_image


def mixture_bits(index: Index, held_out: NDArray[np.uint16]) -> tuple[Floats, Floats]:
    """The same of a mixture of the kernel with counts of equal contexts; and the shares that it was given.

    The smoothed n-gram of two tokens and the unigram of the position join the kernel. Their shares are those by which
    training images, each left out, are predicted best (expectation maximization).
    """
    members = [Kernel(), Smoothed(context=2), Aligned(context=0)]
    rows = np.sort(np.random.default_rng(0).permutation(index.num_images)[:LEFT_OUT])
    left_out = np.stack([each.probabilities(index, index.tokens[rows], leave_out=rows) for each in members])
    shares = np.full(len(members), 1 / len(members))
    for _ in range(200):
        parts = shares[:, None, None] * left_out
        shares = (parts / parts.sum(0)).mean((1, 2))
    p = np.stack([each.probabilities(index, held_out) for each in members])
    return -np.log2(np.einsum("m,mij->ij", shares, p)).mean(1), shares


def main(config: Config) -> None:
    index = Index.open(config.index)
    held_out = read_held_out(index).tokens
    if not len(held_out):
        raise UserError(f"{index.path} holds out no images: nothing to predict")
    if index.num_images > 2 * LIBRARY:
        raise UserError(
            f"{index.path} holds {index.num_images} images: above {2 * LIBRARY} a fit is narrowed by the votes of the "
            "default, which would not do the variants justice"
        )
    rng = np.random.default_rng(0)
    measured: dict[str, Floats] = {}

    def show(name: str, bits: Floats) -> None:
        measured[name] = bits
        more = mean(bits - measured["the default"], rng)
        difference = f"{more.value:+.3f} [{more.low:+.3f}, {more.high:+.3f}]"
        print(f"| {name} | {bits.mean():.3f} | {difference if len(measured) > 1 else ''} |", flush=True)

    print("| variant | held-out bits | more than the default |\n| --- | --- | --- |")
    for name, (kind, seed) in VARIANTS.items():
        show(name, fitted_bits(index, held_out, kind, seed))
    bits, shares = mixture_bits(index, held_out)
    show("mixed with the smoothed n-gram and the unigram", bits)
    summary(
        training_images=index.num_images,
        held_out_images=len(held_out),
        mixture_shares=", ".join(f"{share:.3f}" for share in shares),
        **{name: bits.mean() for name, bits in measured.items()},
    )


if __name__ == "__main__":
    sys.exit(run_script(main, Config, __doc__))
