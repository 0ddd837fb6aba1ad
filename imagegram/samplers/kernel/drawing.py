"""Moved votes: an image gives its token, moved by what the difference of the contexts makes.

At token t with the digits x before it, training image j has a vote, and offers its own token, whose
digits d (of its FSQ code) are moved and then step:

    w_j  proportional to exp(-max(n(x), |A_t (x - y_j)|^2) / temperature)
    c_jd = e(y_jd) + step * (m_d(x) - m_d(y_j))
    p(token) = a * sum_j w_j * prod_d logistic(token_d | c_jd, step * temperature * width_d)
               + c / tokens

m_d is a kernel ridge regression of a digit's code on all digits before it (regression.py); the
digits of a token follow one another from one and the same image, which is the token's source. n(x)
is the squared distance of the fourth nearest image (or a later one, where images are many): a
sequence that has followed one image so far hears three others as loud, or it would hear nobody else
and copy it. The first token has no context: all images vote alike, and a share b of them gives its
token as it stands. The logistic's mass is cut at the edges between two digits. A_t, widths, edges,
shares and where digits lie for the distance are fitted by the leave-one-out likelihood of the
training images (fit.py).

Sources. Weinberger & Tesauro (2007, "Metric learning for kernel regression") fit the metric; Hansen
(2004, "Nonparametric conditional density estimation") first predicts the mean and then the density
of its error; TabR (Gorishniy et al., 2023, arXiv:2307.14338) corrects a neighbour's label by the
difference of the keys; Local Linear Attention (2025, arXiv:2510.01450) is the local regression as
attention. Mussmann et al. (2017, arXiv:1707.03372) draw from such sums without making them, as
votes.py does by proposals.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import trange

from imagegram.index.folder import Index
from imagegram.machine import choose_device, single_threads
from imagegram.samplers.kernel.fit import open_kernel
from imagegram.samplers.kernel.model import MovedVotes, context_places, digits_of
from imagegram.samplers.kernel.votes import ATTEMPTS, ROWS, Library, slices
from imagegram.samplers.matches import DrawnTokens, Ints, Reweigh

REASONS = 2  # earlier tokens that are named
LEAST_MOVE = 1e-4  # of a mean, in codes: less is rounding
RESIDUALS_AT_ONCE = 8192  # images, bounds the memory


@dataclass(frozen=True)
class Drawing:
    """How far from the fit it is drawn."""

    step: float = 1.0  # of moves and widths
    temperature: float = 1.0  # of the votes and of the widths
    reweigh: Reweigh | None = None  # top-k and top-p, on the distribution of each digit


def kernel_of(index: Index) -> MovedVotes:
    """The model fitted to `index`, on the device that votes are counted on."""
    return open_kernel(index, choose_device())


def kernel_probabilities(
    index: Index, tokens: NDArray[np.uint16], drawing: Drawing, *, leave_out: Ints | None = None
) -> NDArray[np.float64]:
    """p(x_i | x_1 .. x_{i-1}) of every token of `tokens` [n, k], as the sampler draws it: float64
    [n, k].

    leave_out: int64 [n], the rows of the index that the sequences are, where each is to be
    predicted from all others.
    """
    return model_probabilities(kernel_of(index), index.tokens, tokens, drawing, leave_out=leave_out)


def model_probabilities(
    model: MovedVotes,
    training: NDArray[np.uint16],
    tokens: NDArray[np.uint16],
    drawing: Drawing,
    *,
    leave_out: Ints | None = None,
) -> NDArray[np.float64]:
    """The same of a fitted model and the training images [N, L] that vote."""
    if not len(tokens):
        return np.ones(tokens.shape)
    library = Library(training, model)
    wanted = digits_of(tokens, model.levels, library.device)
    rows = None if leave_out is None else torch.from_numpy(leave_out).to(library.device)
    result = np.ones(tokens.shape)
    for position in trange(tokens.shape[1], desc="likelihood", unit="position", delay=3):
        with torch.inference_mode(), single_threads():
            result[:, position] = (
                _probabilities_at(library, position, wanted, drawing, rows).cpu().numpy()
            )
    return result


def _probabilities_at(
    library: Library, position: int, wanted: Tensor, drawing: Drawing, leave_out: Tensor | None
) -> Tensor:
    """The probability of the tokens at a position of `wanted` uint8 [n, F]: float64 [n]."""
    model = library.model
    digits = range(model.digits)
    first = position * model.digits
    token = wanted[:, first : first + model.digits].long()
    stands = library.digits[first : first + model.digits]  # of the images: [D, N]
    means = model.means(wanted, position)
    if leave_out is not None:
        residuals = model.residuals(wanted, position, leave_out)
        means = model.own_codes(wanted, position) - residuals
    offers = _offers(library, position, drawing.step)

    def moved(rows: slice, tile: slice) -> Tensor:
        chances = torch.ones((), device=means.device)
        for digit in digits:
            near = means[rows, digit, None] * drawing.step + offers[None, tile, digit]
            chances = chances * _chances(
                model, position, digit, token[rows, digit, None], near, drawing
            )
        return chances

    def equal(rows: slice, tile: slice) -> Tensor:
        return (token[rows, :, None] == stands[None, :, tile]).all(1).float()

    shares = model.shares(position, drawing.step).double()
    voted = partial(
        library.shares, position, wanted, temperature=drawing.temperature, leave_out=leave_out
    )
    p = shares[0] * voted(moved) + shares[2] / math.prod(model.levels)
    return p if position else p + shares[1] * voted(equal)


def _offers(library: Library, position: int, step: float) -> Tensor:
    """What each image adds to the mean that a context lets expect: [N, D]."""
    model = library.model
    parts = []
    for few in slices(library.size, RESIDUALS_AT_ONCE):
        digits = library.digits[: (position + 1) * model.digits, few].T
        parts.append(
            _offer(
                model,
                position,
                digits,
                torch.arange(few.start, few.stop, device=library.device),
                step,
            )
        )
    return torch.cat(parts)


def _offer(model: MovedVotes, position: int, digits: Tensor, images: Tensor, step: float) -> Tensor:
    """The same of some images, of digits uint8 [n, F]: e(y) - step m(y), where m knows all others
    alone."""
    codes = model.own_codes(digits, position)
    return codes - step * (codes - model.residuals(digits, position, images))


def _chances(
    model: MovedVotes, position: int, digit: int, wanted: Tensor, offers: Tensor, drawing: Drawing
) -> Tensor:
    """The chance that each offer [n, N] becomes the wanted digit int64 [n, 1], as it is drawn."""
    drawn = {"step": drawing.step, "temperature": drawing.temperature}
    if drawing.reweigh is None:
        return model.chances(position, digit, wanted, offers, **drawn)
    every = torch.arange(model.levels[digit], device=offers.device)
    p = model.chances(position, digit, every, offers[..., None], **drawn)
    return (
        _reweighed(p, drawing.reweigh)
        .gather(-1, wanted[..., None].expand(*offers.shape, 1))[..., 0]
        .float()
    )


def _reweighed(p: Tensor, reweigh: Reweigh) -> Tensor:
    """Distributions of digits [..., values] with top-k and top-p applied: float64."""
    return torch.from_numpy(reweigh(p.double().cpu().numpy())).to(p.device)


def kernel_matches(
    index: Index, drawn: NDArray[np.uint16], rng: np.random.Generator, drawing: Drawing
) -> Iterator[DrawnTokens]:
    """Tokens drawn digit by digit from one image each, which is their source.

    Every sequence has random numbers of its own, however many are drawn together.
    """
    device = choose_device()
    model = open_kernel(index, device)
    library = Library(index.tokens, model)
    n, length = drawn.shape
    digits = torch.zeros((n, length * model.digits), dtype=torch.uint8, device=device)
    for position in range(length):
        if position:  # what was drawn may differ from what was offered: a prompt, a class
            own = slice((position - 1) * model.digits, position * model.digits)
            digits[:, own] = digits_of(drawn[:, position - 1 : position], index.levels, device)
        uniform = torch.from_numpy(rng.random((n, 1 + model.digits + 3 * ATTEMPTS))).to(device)
        kinds, votes = (
            uniform[:, : 1 + model.digits],
            uniform[:, 1 + model.digits :].unflatten(1, (ATTEMPTS, 3)),
        )
        with torch.inference_mode(), single_threads():
            images = library.draw(position, digits, votes, drawing.temperature)
            _draw_digits(library, position, digits, images, kinds, drawing)
        radix = torch.tensor(np.cumprod([1, *model.levels[:-1]]), device=device)
        token = (
            digits[:, position * model.digits : (position + 1) * model.digits].long() * radix
        ).sum(1)
        yield DrawnTokens(token.cpu().numpy().astype(np.uint16), images.cpu().numpy(), position)


def _draw_digits(
    library: Library,
    position: int,
    digits: Tensor,
    images: Tensor,
    uniform: Tensor,
    drawing: Drawing,
) -> None:
    """Draw the digits of a token into `digits` uint8 [n, F], of the images [n] that give it, on all
    cores."""

    def draw(rows: slice) -> None:
        _draw_some(library, position, digits[rows], images[rows], uniform[rows], drawing)

    library.share(len(digits), ROWS, draw)


def _draw_some(
    library: Library,
    position: int,
    digits: Tensor,
    images: Tensor,
    uniform: Tensor,
    drawing: Drawing,
) -> None:
    """Draw the digits of a token into `digits` uint8 [n, F], each a move and a step away from the
    image's.

    uniform: float64 [n, 1 + D], which of the three kinds a token is, then the digits.
    """
    model = library.model
    first = position * model.digits
    theirs = library.digits_of(images, position)
    offers = _offer(model, position, theirs, images, drawing.step)
    shares = model.shares(position, drawing.step).double().cumsum(0)
    stands = (uniform[:, 0] >= shares[0]) & (uniform[:, 0] < shares[1])
    anything = uniform[:, 0] >= shares[1]
    if position:  # no rounding of the shares may make a token stand as it is
        anything |= stands
        stands = torch.zeros_like(stands)

    expected = model.expect(digits, position)
    for digit, level in enumerate(model.levels):
        # The digits drawn so far are part of the context of the next one.
        near = model.means(digits, position, expected)[:, digit] * drawing.step + offers[:, digit]
        every = torch.arange(level, device=digits.device)[None]
        drawn = {"step": drawing.step, "temperature": drawing.temperature}
        p = model.chances(position, digit, every, near[:, None], **drawn).double()
        if drawing.reweigh is not None:
            p = _reweighed(p, drawing.reweigh)
        cumulative = p.cumsum(1)
        wanted = uniform[:, digit + 1 : digit + 2]
        moved = (cumulative <= wanted * cumulative[:, -1:]).sum(1).clamp(max=level - 1)
        chance = (wanted[:, 0] * level).long().clamp(max=level - 1)
        own = torch.where(
            anything, chance, torch.where(stands, theirs[:, first + digit].long(), moved)
        )
        digits[:, first + digit] = own.to(torch.uint8)


def kernel_reasons(index: Index, tokens: NDArray[np.uint16], sources: Ints) -> Ints:
    """The two earlier tokens that moved each token most from its source (Sampler.reasons has the
    shapes).

    What an earlier token did: how far the mean of the regression goes, in codes, when that token
    alone is put back to what the source has there.
    """
    return _reasons(kernel_of(index), index.tokens, tokens, sources)


@torch.inference_mode()
def _reasons(
    model: MovedVotes, training: NDArray[np.uint16], tokens: NDArray[np.uint16], sources: Ints
) -> Ints:
    digits = digits_of(tokens, model.levels, choose_device())
    reasons = np.full((*tokens.shape, REASONS), -1)
    for position in range(1, tokens.shape[1]):
        rows = np.flatnonzero(sources[:, position] >= 0)
        own = digits[rows]
        theirs = digits_of(training[sources[rows, position]], model.levels, digits.device)
        expected = model.means(own, position)
        earlier = np.unique(np.array(context_places(position, model.digits)) // model.digits)
        mixed = own.repeat(len(earlier), 1, 1)
        for number, token in enumerate(earlier):
            part = slice(token * model.digits, (token + 1) * model.digits)
            mixed[number, :, part] = theirs[:, part]
        moved = (
            (model.means(mixed.flatten(0, 1), position).unflatten(0, mixed.shape[:2]) - expected)
            .abs()
            .sum(2)
            .T
        )
        most, which = moved.cpu().topk(min(REASONS, len(earlier)), 1)
        reasons[rows, position, : most.shape[1]] = np.where(most > LEAST_MOVE, earlier[which], -1)
    return reasons
