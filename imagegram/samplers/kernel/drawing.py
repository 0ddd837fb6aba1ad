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
from torch import Tensor
from tqdm import trange

from imagegram.machine import single_threads
from imagegram.samplers.kernel.model import MovedVotes, context_places, digits_of
from imagegram.samplers.kernel.votes import ATTEMPTS, ROWS, Library, slices
from imagegram.samplers.matches import DrawnTokens, Floats, Ints, Reweigh, Tokens

REASONS = 2  # earlier tokens that are named
LEAST_MOVE = 1e-4  # of a mean, in codes: less is rounding
RESIDUALS_AT_ONCE = 8192  # images, bounds the memory


@dataclass(frozen=True)
class Drawing:
    """How far from the fit it is drawn."""

    step: float = 1.0  # of moves and widths
    temperature: float = 1.0  # of the votes and of the widths
    reweigh: Reweigh | None = None  # top-k and top-p, on the distribution of each digit


class Token:
    """The token at a position of n sequences, as `drawing` says: its digits and their chances."""

    def __init__(self, library: Library, position: int, drawing: Drawing):
        self.library = library
        self.position = position
        self.drawing = drawing
        model = self.model = library.model
        self.own = slice(position * model.digits, (position + 1) * model.digits)  # its digits
        self.shares = model.shares(position, drawing.step).double()
        self.fitted_chances = partial(
            model.chances, position, step=drawing.step, temperature=drawing.temperature
        )

    def offers(self, digits: Tensor, images: Tensor) -> Tensor:
        """What some images [n] of digits uint8 [n, F] add to the mean that a context lets expect,
        e(y) - step m(y), where m knows all others alone: [n, D]."""
        codes = self.model.own_codes(digits, self.position)
        residuals = self.model.residuals(digits, self.position, images)
        return codes - self.drawing.step * (codes - residuals)

    def distribution(self, digit: int, near: Tensor) -> Tensor:
        """Of a digit's values, as it is drawn from moved offers [*]: float64 [*, values]."""
        every = torch.arange(self.model.levels[digit], device=near.device)
        p = self.fitted_chances(digit, every, near[..., None]).double()
        if self.drawing.reweigh is None:
            return p
        return torch.from_numpy(self.drawing.reweigh(p.cpu().numpy())).to(p.device)

    def chances(self, digit: int, wanted: Tensor, near: Tensor) -> Tensor:
        """The chance that each moved offer [n, N] becomes the wanted digit int64 [n, 1]."""
        if self.drawing.reweigh is None:
            return self.fitted_chances(digit, wanted, near)
        places = wanted[..., None].expand(*near.shape, 1)
        return self.distribution(digit, near).gather(-1, places)[..., 0].float()

    def probabilities(self, wanted: Tensor, leave_out: Tensor | None) -> Tensor:
        """The probability of the tokens of `wanted` uint8 [n, F]: float64 [n]."""
        library = self.library
        token = wanted[:, self.own].long()
        stands = library.digits[self.own]  # of the images: [D, N]
        if leave_out is None:
            means = self.model.means(wanted, self.position)
        else:
            residuals = self.model.residuals(wanted, self.position, leave_out)
            means = self.model.own_codes(wanted, self.position) - residuals
        images = torch.arange(library.size, device=library.device)
        parts = slices(library.size, RESIDUALS_AT_ONCE)
        before = library.digits[: self.own.stop]
        offers = torch.cat([self.offers(before[:, part].T, images[part]) for part in parts])

        def moved(rows: slice, tile: slice) -> Tensor:
            chances = torch.ones((), device=means.device)
            for digit in range(self.model.digits):
                near = means[rows, digit, None] * self.drawing.step + offers[None, tile, digit]
                chances = chances * self.chances(digit, token[rows, digit, None], near)
            return chances

        def equal(rows: slice, tile: slice) -> Tensor:
            return (token[rows, :, None] == stands[None, :, tile]).all(1).float()

        voted = partial(library.shares, self.position, wanted, leave_out=leave_out)
        p = self.shares[0] * voted(moved) + self.shares[2] / math.prod(self.model.levels)
        return p if self.position else p + self.shares[1] * voted(equal)

    def draw(self, digits: Tensor, images: Tensor, uniform: Tensor) -> None:
        """Draw the token's digits into `digits` uint8 [n, F], each a move and a step away from that
        of the image [n] that gives it.

        uniform: float64 [n, 1 + D], which of the three kinds a token is, then the digits.
        """
        model = self.model
        theirs = self.library.digits_of(images, self.position)
        offers = self.offers(theirs, images)
        shares = self.shares.cumsum(0)
        anything = uniform[:, 0] >= shares[1]
        stands = (uniform[:, 0] >= shares[0]) & ~anything
        if self.position:  # no rounding of the shares may make a token stand as it is
            anything |= stands
            stands = torch.zeros_like(stands)

        expected = model.expect(digits, self.position)
        for digit, level in enumerate(model.levels):
            # The digits drawn so far are part of the context of the next one.
            means = model.means(digits, self.position, expected)
            near = means[:, digit] * self.drawing.step + offers[:, digit]
            cumulative = self.distribution(digit, near).cumsum(1)
            wanted = uniform[:, digit + 1 : digit + 2]
            moved = (cumulative <= wanted * cumulative[:, -1:]).sum(1).clamp(max=level - 1)
            chance = (wanted[:, 0] * level).long().clamp(max=level - 1)
            place = self.own.start + digit
            given = torch.where(stands, theirs[:, place].long(), moved)
            digits[:, place] = torch.where(anything, chance, given).to(torch.uint8)


def model_probabilities(
    model: MovedVotes,
    training: Tokens,
    tokens: Tokens,
    drawing: Drawing,
    *,
    leave_out: Ints | None = None,
) -> Floats:
    """p(x_i | x_1 .. x_{i-1}) of every token of `tokens` [n, k], by the votes of the training
    images [N, L]: float64 [n, k].

    leave_out: int64 [n], the rows of the index that the sequences are, where each is to be
    predicted from all others.
    """
    result = np.ones(tokens.shape)
    if not len(tokens):
        return result
    library = Library(training, model, drawing.temperature)
    wanted = digits_of(tokens, model.levels, library.device)
    rows = None if leave_out is None else torch.from_numpy(leave_out).to(library.device)
    for position in trange(tokens.shape[1], desc="likelihood", unit="position", delay=3):
        with torch.inference_mode(), single_threads():
            p = Token(library, position, drawing).probabilities(wanted, rows)
        result[:, position] = p.cpu().numpy()
    return result


def model_matches(
    model: MovedVotes, training: Tokens, drawn: Tokens, rng: np.random.Generator, drawing: Drawing
) -> Iterator[DrawnTokens]:
    """Tokens drawn digit by digit from one training image [N, L] each, which is their source.

    Every sequence has random numbers of its own, however many are drawn together.
    """
    library = Library(training, model, drawing.temperature)
    device = library.device
    n, length = drawn.shape
    digits = torch.zeros((n, length * model.digits), dtype=torch.uint8, device=device)
    radix = torch.tensor(np.cumprod([1, *model.levels[:-1]]), device=device)
    for position in range(length):
        token = Token(library, position, drawing)
        uniform = torch.from_numpy(rng.random((n, 1 + model.digits + 3 * ATTEMPTS))).to(device)
        kinds, votes = uniform.tensor_split([1 + model.digits], 1)
        with torch.inference_mode(), single_threads():
            images = library.draw(position, digits, votes.unflatten(1, (ATTEMPTS, 3)))
            library.share(ROWS, token.draw, digits, images, kinds)
        own = digits[:, token.own]
        tokens = (own.long() * radix).sum(1).cpu().numpy().astype(np.uint16)
        yield DrawnTokens(tokens, images.cpu().numpy(), position)
        # What was drawn may differ from what was offered: a prompt, a class.
        own.copy_(digits_of(drawn[:, position : position + 1], model.levels, device))


@torch.inference_mode()
def model_reasons(model: MovedVotes, training: Tokens, tokens: Tokens, sources: Ints) -> Ints:
    """The two earlier tokens that moved each token most from its source (Sampler.reasons has the
    shapes).

    What an earlier token did: how far the mean of the regression goes, in codes, when that token
    alone is put back to what the source has there.
    """
    digits = digits_of(tokens, model.levels, model.codes.device)
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
        means = model.means(mixed.flatten(0, 1), position).unflatten(0, mixed.shape[:2])
        moved = (means - expected).abs().sum(2).T
        most, which = moved.cpu().topk(min(REASONS, len(earlier)), 1)
        reasons[rows, position, : most.shape[1]] = np.where(most > LEAST_MOVE, earlier[which], -1)
    return reasons
