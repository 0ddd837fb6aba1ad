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
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import trange

from imagegram.index.folder import Index
from imagegram.machine import cores, single_threads
from imagegram.sampling.kernel_metric import (
    FAR,
    FIRST_TOKENS,
    LAST_TOKENS,
    MAX_PAIRS,
    Kernel,
    choose_device,
    digits_of,
    open_kernel,
)
from imagegram.sampling.matches import Ints, Matches, truncated
from imagegram.sampling.settings import Settings

CACHE = 1 << 20  # votes of a tile, 4 MB
LEAST_TILE = 512  # images
# Of a vote, where the nearest image's is 0. From -87 on float32 numbers are subnormal, and exp takes 14 times as long.
LEAST_LOG = -80.0


@dataclass(frozen=True)
class Votes:
    """The votes of N images for the digit of n sequences, not scaled to a sum of 1."""

    each: Tensor  # [n, N]
    sums: Tensor  # [tiles, n, values]: those of a tile of the images for each digit
    tile: int  # images


class Library:
    """The indexed images as a kernel sees them, ready to vote for many sequences, one place after another."""

    def __init__(self, index: Index, model: Kernel):
        self.model = model
        self.device = model.codes.device
        self.digits = digits_of(index.tokens, index.levels, self.device).T.contiguous()  # uint8 [F, N]

        # Row 0: what an image's distance adds for itself. After it: where the digits of the earlier places lie, each in
        # a row of its own. Those of the first tokens stay, later ones take turns.
        first = FIRST_TOKENS * model.digits
        turns = (LAST_TOKENS + 1) * model.digits
        self.rows = [1 + (place if place < first else first + (place - first) % turns) for place in range(model.places)]
        self.held = [-1] * (1 + min(model.places, first + turns))  # the place that is in a row
        self.context = torch.zeros((len(self.held), index.num_images), device=self.device)
        self.squares = torch.zeros_like(self.context)
        self.matrix = torch.empty(0, device=self.device)  # memory that is used again for every place
        self.pool = ThreadPoolExecutor(min(torch.get_num_threads(), cores()))

    def _read(self, places: list[int]) -> list[int]:
        """Have the digits of some places at hand: the rows of `context` that they are in."""
        for place in places:
            row = self.rows[place]
            if self.held[row] != place:
                codes = self.model.codes[self.model.row(place)]
                torch.index_select(codes, 0, self.digits[place].int(), out=self.context[row])
                torch.square(self.context[row], out=self.squares[row])
                self.held[row] = place
        return [self.rows[place] for place in places]

    def votes(self, place: int, queries: Tensor, own: Tensor | None = None) -> Votes:
        """The votes for n sequences, whose memory the next call takes.

        queries: [>= place, n] of `embed`; own [n]: an image that must say nothing.
        """
        model = self.model
        rows = self._read(model.contexts[place])
        count = 1 + max(rows, default=0)
        weight = torch.zeros(count, device=self.device)
        weight[rows] = model.weights(place)
        x = torch.zeros((queries.shape[1], count), device=self.device)
        x[:, rows] = queries[model.contexts[place]].T
        factors = -2 * x * weight
        factors[:, 0] = 1
        n, images = len(x), self.context.shape[1]
        if self.matrix.shape != (n, images):
            self.matrix = torch.empty((n, images), device=self.device)

        @torch.inference_mode()
        def compare(tile: slice) -> Tensor:
            """Have the distances of some images, less that of x to 0, in the matrix; those of the nearest: [n]."""
            torch.mv(self.squares[:count, tile].T, weight, out=self.context[0, tile])
            distance = torch.mm(factors, self.context[:count, tile], out=self.matrix[:, tile])
            if own is not None:
                mine = torch.nonzero((own >= tile.start) & (own < tile.stop))[:, 0]
                distance[mine, own[mine] - tile.start] = FAR
            return distance.amin(1)

        # A tile of the matrix stays in the cache of a core.
        size = max(LEAST_TILE, CACHE // n)
        tiles = [slice(first, min(first + size, images)) for first in range(0, images, size)]
        run = self.pool.map if self.device.type == "cpu" and len(tiles) > 1 else map
        nearest = torch.stack(list(run(compare, tiles))).amin(0)[:, None]
        scale = model.width(place, nearest + (x.square() @ weight)[:, None])
        digits = torch.eye(model.allowed.shape[1], device=self.device)

        @torch.inference_mode()
        def vote(tile: slice) -> Tensor:
            """Turn the distances of some images into votes; those for each digit: [n, values]."""
            votes = self.matrix[:, tile].sub_(nearest).div_(-scale).clamp_(min=LEAST_LOG).exp_()
            return votes @ digits.index_select(1, self.digits[place, tile].int()).T

        return Votes(self.matrix, torch.stack(list(run(vote, tiles))), size)

    def probabilities(
        self, place: int, queries: Tensor, step: float, own: Tensor | None = None
    ) -> tuple[Votes, Tensor]:
        """The votes, and the distribution of the digit [n, values], after `queries` [place, n]."""
        votes = self.votes(place, queries, own)
        sums = votes.sums.sum(0)
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
            with torch.inference_mode(), single_threads():
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
    queries = torch.zeros((model.places, len(drawn)), device=device)
    for position in range(drawn.shape[1]):
        if position:  # what was drawn may differ from what was offered: given tokens, a class
            digits = digits_of(drawn[:, position - 1 : position], index.levels, device)
            places = range((position - 1) * model.digits, position * model.digits)
            queries[places.start : places.stop] = model.codes_of(places).gather(1, digits.T.long())
        with torch.inference_mode(), single_threads():
            tokens, images = _draw_tokens(library, position, queries, settings, rng)
        yield DrawnTokens(tokens.astype(np.uint16), images, position)


def _draw_tokens(
    library: Library, position: int, queries: Tensor, settings: Settings, rng: np.random.Generator
) -> tuple[Ints, Ints]:
    """The next tokens of n sequences, whose digits are added to `queries` [F, n], and their sources: int64 [n], [n]."""
    model = library.model
    radix = np.cumprod([1, *model.levels[:-1]])
    tokens = np.zeros(queries.shape[1], np.int64)
    for d in range(model.digits):
        place = position * model.digits + d
        votes, p = library.probabilities(place, queries, settings.step)
        digit = _draw_digit(p, settings, rng)
        drawn = torch.from_numpy(digit).to(queries.device)
        queries[place] = model.codes[model.row(place)][drawn]
        tokens += digit * radix[d]
    steps = model.steps(place, settings.step)[:, drawn]  # [from, n]
    return tokens, _draw_source(votes, steps.T, library.digits[place], rng)


def _draw_digit(p: Tensor, settings: Settings, rng: np.random.Generator) -> Ints:
    """A digit for each row of probabilities [n, values]: int64 [n]."""
    rows = _reweighted(p, settings)
    cumulative = np.cumsum(rows, 1)
    wanted = rng.random((len(rows), 1)) * cumulative[:, -1:]
    return (cumulative <= wanted).sum(1).clip(max=rows.shape[1] - 1)


def _draw_source(votes: Votes, steps: Tensor, digits: Tensor, rng: np.random.Generator) -> Ints:
    """An image for each sequence, by its vote and the chance [n, values] that its digit [N] becomes the drawn one.

    First a tile of the images and a digit, then an image of that tile that has that digit.
    """
    n, values = steps.shape
    sums = votes.sums.double()
    mass = sums * steps
    mass = torch.where(mass.sum((0, 2), keepdim=True) > 0, mass, sums)  # the floor or the unigram drew it
    cells = mass.permute(1, 0, 2).flatten(1)  # [n, tiles * values]
    cumulative = cells.cumsum(1)
    wanted = torch.from_numpy(rng.random((n, 1))).to(cells.device) * cumulative[:, -1:]
    cell = torch.searchsorted(cumulative, wanted, right=True).clamp(max=cells.shape[1] - 1)
    rest = 1 - (cumulative.gather(1, cell) - wanted) / cells.gather(1, cell)  # in [0, 1)

    images = torch.empty(n, dtype=torch.int64, device=cells.device)
    for number in (cell // values).unique().tolist():
        rows = torch.nonzero(cell[:, 0] // values == number)[:, 0]
        tile = slice(number * votes.tile, (number + 1) * votes.tile)
        held = digits[tile] == cell[rows] % values
        within = (votes.each[rows, tile] * held).cumsum(1, dtype=torch.float64)
        place = torch.searchsorted(within, rest[rows] * within[:, -1:], right=True)[:, 0]
        images[rows] = tile.start + place.clamp(max=within.shape[1] - 1)
    return images.cpu().numpy()
