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

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import trange

from imagegram.index.folder import Index
from imagegram.machine import choose_device, single_threads
from imagegram.samplers.kernel.fit import open_kernel
from imagegram.samplers.kernel.model import Kernel, digits_of
from imagegram.samplers.kernel.votes import Library, Votes, sequences_at_once
from imagegram.samplers.matches import DrawnTokens, Ints, Reweigh


def kernel_of(index: Index) -> Kernel:
    """The kernel fitted to `index`, on the device that votes are counted on."""
    return open_kernel(index, choose_device())


def kernel_probabilities(
    index: Index,
    tokens: NDArray[np.uint16],
    *,
    step: float,
    reweigh: Reweigh | None = None,
    leave_out: Ints | None = None,
) -> NDArray[np.float64]:
    """p(x_i | x_1 .. x_{i-1}) of every token of `tokens` [n, k], as the sampler draws it: float64 [n, k].

    leave_out: int64 [n], the rows of the index that the sequences are, where each is to be predicted
    from all others.
    """
    device = choose_device()
    model = open_kernel(index, device)
    library = Library(index.tokens, model)
    n, length = tokens.shape
    result = np.ones((n, length))
    rows_at_once = sequences_at_once(index.num_images)
    for first in trange(0, n, rows_at_once, desc="likelihood", unit="batch", delay=3):
        part = slice(first, first + rows_at_once)
        digits = digits_of(tokens[part], index.levels, device)
        queries = model.embed(digits)
        left_out = None if leave_out is None else torch.from_numpy(leave_out[part]).to(device)
        for place in range(digits.shape[1]):
            with torch.inference_mode(), single_threads():
                _, p = library.probabilities(place, queries, step, left_out)
            chosen = _reweighed(p, reweigh).gather(1, digits[:, place : place + 1].long())
            result[part, place // model.digits] *= chosen[:, 0].cpu().numpy()
    return result


def _reweighed(p: Tensor, reweigh: Reweigh | None) -> Tensor:
    """The distributions of digits [n, values] as they are drawn from, float64: temperature, top-k and top-p applied."""
    if reweigh is None:
        return p.double()
    changed = [reweigh(row) for row in p.double().cpu().numpy()]
    return torch.from_numpy(np.stack(changed)).to(p.device)


def kernel_matches(
    index: Index,
    drawn: NDArray[np.uint16],
    rng: np.random.Generator,
    *,
    step: float,
    reweigh: Reweigh | None = None,
) -> Iterator[DrawnTokens]:
    """Tokens drawn digit by digit. The source of a token is an image that its last digit was drawn from.

    `reweigh` acts on the distribution of each digit.
    """
    device = choose_device()
    model = open_kernel(index, device)
    library = Library(index.tokens, model)
    n, length = drawn.shape
    queries = torch.zeros((model.places, n), device=device)
    for position in range(length):
        if position:  # what was drawn may differ from what was offered: a prompt, a class
            digits = digits_of(drawn[:, position - 1 : position], index.levels, device)
            places = range((position - 1) * model.digits, position * model.digits)
            queries[places.start : places.stop] = model.codes_of(places).gather(1, digits.T.long())
        tokens = np.zeros(n, np.uint16)
        images = np.zeros(n, np.int64)
        for first in range(0, n, sequences_at_once(index.num_images)):
            part = slice(first, first + sequences_at_once(index.num_images))
            with torch.inference_mode(), single_threads():
                tokens[part], images[part] = _draw_tokens(
                    library, position, queries[:, part], rng, step=step, reweigh=reweigh
                )
        yield DrawnTokens(tokens, images, position)


def _draw_tokens(
    library: Library,
    position: int,
    queries: Tensor,
    rng: np.random.Generator,
    *,
    step: float,
    reweigh: Reweigh | None,
) -> tuple[Ints, Ints]:
    """The next tokens of n sequences, whose digits are added to `queries` [F, n], and their sources: int64 [n], [n]."""
    model = library.model
    radix = np.cumprod([1, *model.levels[:-1]]).tolist()
    tokens = torch.zeros(queries.shape[1], dtype=torch.int64, device=queries.device)
    for d in range(model.digits):
        place = position * model.digits + d
        votes, p = library.probabilities(place, queries, step)
        digit = _draw_digit(_reweighed(p, reweigh), rng)
        queries[place] = model.codes[model.row(place)][digit]
        tokens += digit * radix[d]
    steps = model.steps(place, step)[:, digit]  # [from, n]
    return tokens.cpu().numpy(), _draw_source(votes, steps.T, library.digits[place], rng)


def _draw_digit(p: Tensor, rng: np.random.Generator) -> Tensor:
    """A digit for each row of probabilities float64 [n, values]: int64 [n]."""
    cumulative = p.cumsum(1)
    wanted = torch.from_numpy(rng.random((len(p), 1))).to(p.device) * cumulative[:, -1:]
    return (cumulative <= wanted).sum(1).clamp(max=p.shape[1] - 1)


def _draw_source(votes: Votes, steps: Tensor, digits: Tensor, rng: np.random.Generator) -> Ints:
    """An image for each sequence, by its vote and the chance [n, values] that its digit [N] becomes the drawn one.

    First a part of the images and a digit, then an image of that part that has that digit.
    """
    n, values = steps.shape
    sums = votes.sums.double()
    mass = sums * steps
    mass = torch.where(mass.sum((0, 2), keepdim=True) > 0, mass, sums)  # the floor or the unigram drew it
    cells = mass.permute(1, 0, 2).flatten(1)  # [n, parts * values]
    cumulative = cells.cumsum(1)
    wanted = torch.from_numpy(rng.random((n, 1))).to(cells.device) * cumulative[:, -1:]
    cell = torch.searchsorted(cumulative, wanted, right=True).clamp(max=cells.shape[1] - 1)
    rest = 1 - (cumulative.gather(1, cell) - wanted) / cells.gather(1, cell)  # in [0, 1)

    images = torch.empty(n, dtype=torch.int64, device=cells.device)
    for number in (cell // values).unique().tolist():
        rows = torch.nonzero(cell[:, 0] // values == number)[:, 0]
        part = slice(number * votes.part, (number + 1) * votes.part)
        held = digits[part] == cell[rows] % values
        # In float32, ten times as fast: whom a vote is taken from by a rounding error does not matter.
        within = torch.where(held, votes.each[:, part].index_select(0, rows), 0.0).cumsum(1)
        place = torch.searchsorted(within, rest[rows].float() * within[:, -1:], right=True)[:, 0]
        images[rows] = part.start + place.clamp(max=within.shape[1] - 1)
    return images.cpu().numpy()
