"""The kernel n-gram: counts whose contexts need not be equal, only near, with a metric fitted by likelihood.

A token is predicted digit by digit (the digits of its FSQ code). Every training image j votes for its own digit y_j
at the same place, by how near its context is, and its vote is spread over the digits near to it:

    p(x) = a * sum_j w_j * step(y_j -> x) + b * unigram(x) + (1 - a - b) / levels
    w_j  proportional to exp(-d_j / (EPS + min_k d_k) ^ g)
    d_j  = sum over earlier digits m of W_m |e(x_m) - e(y_jm)|^2

Everything has its own value for every place: the weights W of the earlier digits, the matrix `step`, the shares a and
b, the exponent g that widens the kernel where no image is near; every digit has a place e(digit) on a line. They are
fitted by gradient on the *leave-one-out likelihood of the training images*, each predicted from all others, so that no
held-out image is spent. It is a Parzen window (1962, doi:10.1214/aoms/1177704472) over prefixes in the manner of
Nadaraya & Watson (1964), with the metric learned as in Goldberger et al. (2004, "Neighbourhood Components Analysis").

Since a digit has few values, no matrix of vocabulary x vocabulary is ever made: FlexTok's 64,000 ids are six digits.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import trange

from imagegram.index.folder import Index
from imagegram.sampling.kernel_metric import FAR, MAX_PAIRS, Kernel, choose_device, digits_of, open_kernel
from imagegram.sampling.matches import Ints, Matches, truncated
from imagegram.sampling.settings import Settings

CACHE = 1 << 19  # votes that stay in the cache of a core, 2 MB
LEAST_TILE = 512  # images


class Library:
    """The indexed images as a kernel sees them, ready to vote for many sequences, one place after another."""

    def __init__(self, index: Index, model: Kernel):
        self.model = model
        self.device = model.codes.device
        self.digits = digits_of(index.tokens, index.levels, self.device).T.contiguous()  # uint8 [F, N]
        self.position = -1  # of the token whose context is at hand
        self.context = torch.empty(0, device=self.device)  # [C, N], where the digits before that token's last lie
        self.squares = self.context

    def _enter(self, position: int) -> None:
        """Have the context of a token at hand: that of its last digit begins with those of the others."""
        if position == self.position:
            return
        places = self.model.contexts[(position + 1) * self.model.digits - 1]
        self.context = self.model.codes_of(places).gather(1, self.digits[places].long())
        self.squares = self.context.square()
        self.position = position

    def votes(self, place: int, queries: Tensor, own: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The votes for n sequences, not scaled to a sum of 1: [n, N], and those for each digit: [n, values].

        queries: [>= place, n] of `embed`; own [n]: an image that must say nothing.
        """
        model = self.model
        self._enter(place // model.digits)
        x = queries[model.contexts[place]].T  # [n, C]
        count = x.shape[1]
        weight = model.weights(place)
        norms = weight @ self.squares[:count]
        distance = torch.addmm(norms[None], -2 * x * weight, self.context[:count])  # less that of x to 0
        if own is not None:
            distance.scatter_(1, own[:, None], FAR)
        nearest = distance.amin(1, keepdim=True)
        scale = model.width(place, nearest + (x.square() @ weight)[:, None])

        # A tile of the matrix is turned into votes and summed while it is in the cache.
        own_digits = nn.functional.one_hot(self.digits[place].long(), model.allowed.shape[1]).to(distance.dtype)
        sums = torch.zeros(len(x), own_digits.shape[1], device=self.device)
        tile = max(LEAST_TILE, CACHE // len(x))
        for first in range(0, distance.shape[1], tile):
            part = distance[:, first : first + tile]
            part.sub_(nearest).div_(-scale).exp_()
            sums.addmm_(part, own_digits[first : first + tile])
        return distance, sums

    def probabilities(
        self, place: int, queries: Tensor, step: float, own: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The votes [n, N], not scaled, and the distribution of the digit [n, values], after `queries` [place, n]."""
        votes, sums = self.votes(place, queries, own)
        return votes, self.model.mixture(place, sums / sums.sum(1, keepdim=True), step)


def kernel_probabilities(
    index: Index, tokens: NDArray[np.uint16], settings: Settings, own: Ints | None = None
) -> NDArray[np.float64]:
    """p(x_i | x_1 .. x_{i-1}) of every token of `tokens` [n, k], as the sampler draws it: float64 [n, k].

    own: int64 [n], the rows of the index that the sequences are, where each is to be predicted from all others.
    """
    device = choose_device()
    model = open_kernel(index, device)
    library = Library(index, model)
    n, length = tokens.shape
    result = np.ones((n, length))
    rows_at_once = sequences_at_once(index.num_images)
    for first in trange(0, n, rows_at_once, desc="likelihood", unit="batch", delay=3):
        part = slice(first, first + rows_at_once)
        digits = digits_of(tokens[part], index.levels, device)
        queries = model.embed(digits)
        left_out = None if own is None else torch.from_numpy(own[part]).to(device)
        for place in range(digits.shape[1]):
            with torch.inference_mode():
                _, p = library.probabilities(place, queries, settings.step, left_out)
            chances = _reweighted(p, settings)
            chosen = digits[:, place].cpu().numpy()
            result[part, place // model.digits] *= chances[np.arange(len(chosen)), chosen]
    return result


def _reweighted(p: Tensor, settings: Settings) -> NDArray[np.float64]:
    """The distributions of digits [n, values] as they are drawn from: temperature, top-k and top-p applied."""
    rows = p.double().cpu().numpy()
    if not settings.reweighted:
        return rows
    return np.stack([truncated(row, settings.temperature, settings.top_k, settings.top_p) for row in rows])


def sequences_at_once(num_images: int) -> int:
    """How many sequences are predicted together: their votes are held in memory."""
    return max(1, MAX_PAIRS // num_images)


@dataclass(frozen=True)
class DrawnTokens:
    """One match a sequence, drawn already: a token and the image that it is a step away from; see matches.py."""

    tokens: NDArray[np.uint16]  # [n]
    images: Ints  # [n]
    position: int

    @property
    def counts(self) -> Ints:
        return np.ones(len(self.tokens), np.int64)

    @property
    def identity(self) -> Ints:
        return np.arange(len(self.tokens))[:, None]

    def next_tokens(self, rows: Ints, picks: Ints) -> NDArray[np.uint16]:
        return self.tokens[rows]

    def sources(self, rows: Ints, picks: Ints) -> Ints:
        return np.stack([self.images[rows], np.full(len(rows), self.position)], 1)


def kernel_matches(
    index: Index, settings: Settings, drawn: NDArray[np.uint16], rng: np.random.Generator
) -> Iterator[Matches]:
    """Tokens drawn digit by digit. The source of a token is an image that its last digit was drawn from.

    Temperature, top-k and top-p act on the distribution of each digit.
    """
    device = choose_device()
    model = open_kernel(index, device)
    library = Library(index, model)
    radix = np.cumprod([1, *index.levels[:-1]])
    queries = torch.zeros((model.places, len(drawn)), device=device)
    for position in range(drawn.shape[1]):
        before = position * model.digits
        if position:  # what was drawn may differ from what was offered: given tokens, a class
            digits = digits_of(drawn[:, position - 1 : position], index.levels, device)
            places = range(before - model.digits, before)
            queries[places.start : places.stop] = model.codes_of(places).gather(1, digits.T.long())
        tokens = np.zeros(len(drawn), np.int64)
        for d in range(model.digits):
            with torch.inference_mode():
                votes, p = library.probabilities(before + d, queries, settings.step)
                digit = _draw_digit(p, settings, rng)
                queries[before + d] = model.codes[model.row(before + d)][torch.from_numpy(digit).to(device)]
            tokens += digit * radix[d]
        place = before + model.digits - 1
        steps = model.steps(place, settings.step)[:, torch.from_numpy(digit).to(device)]  # [from, n]
        with torch.inference_mode():
            images = _draw_source(votes, steps.T.contiguous(), library.digits[place], rng)
        yield DrawnTokens(tokens.astype(np.uint16), images, position)


def _draw_digit(p: Tensor, settings: Settings, rng: np.random.Generator) -> Ints:
    """A digit for each row of probabilities [n, values]: int64 [n]."""
    rows = _reweighted(p, settings)
    cumulative = np.cumsum(rows, 1)
    wanted = rng.random((len(rows), 1)) * cumulative[:, -1:]
    return (cumulative <= wanted).sum(1).clip(max=rows.shape[1] - 1)


def _draw_source(votes: Tensor, steps: Tensor, digits: Tensor, rng: np.random.Generator) -> Ints:
    """An image for each sequence, by its vote [n, N] and the chance [n, values] that its digit [N] becomes the drawn.

    First a block of images, then one of the block: the sums stay short, and so exact in float32.
    """
    n, count = votes.shape
    block = 512
    mass = votes * steps[:, digits.long()]
    mass = torch.where(mass.sum(1, keepdim=True) > 0, mass, votes)  # the floor or the unigram drew it: the votes alone
    blocks = nn.functional.pad(mass, (0, -count % block)).view(n, -1, block)
    cumulative = blocks.sum(2, dtype=torch.float64).cumsum(1).contiguous()
    wanted = torch.from_numpy(rng.random((n, 1))).to(votes.device) * cumulative[:, -1:]
    chosen = torch.searchsorted(cumulative, wanted, right=True).clamp(max=cumulative.shape[1] - 1)  # [n, 1]
    within = blocks[torch.arange(n, device=votes.device), chosen[:, 0]].double().cumsum(1).contiguous()
    rest = wanted - nn.functional.pad(cumulative, (1, 0)).gather(1, chosen)
    image = torch.searchsorted(within, rest, right=True).clamp(max=block - 1)
    return (chosen * block + image)[:, 0].clamp(max=count - 1).cpu().numpy()
