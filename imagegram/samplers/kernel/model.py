"""The fitted numbers of moved votes, and what they mean (drawing.py has the formula)."""

import functools
import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from imagegram.codec.fsq import fsq_digits
from imagegram.samplers.kernel.regression import Regression, landmarks_of
from imagegram.samplers.matches import Tokens

FIRST_TOKENS = 8
LAST_TOKENS = 24  # of the earlier tokens these are the context: all of them up to 32
OWN_TOKENS = FIRST_TOKENS + LAST_TOKENS  # have numbers of their own; all later ones share a set
MOST_RANK = 32
LEAST_RANK = 4
IMAGES_A_RANK = 128  # fewer images cannot tell more numbers of the context apart
# No image is heard louder than the so many nearest, so that none is the only one heard: at least
# LEAST_NEIGHBOURS, and more where images stand closer. With them fewer than one drawn image in a
# million is a copy, of digits, 4,000 and 18,000 scenes, and 54,000 clothes.
LEAST_NEIGHBOURS = 4
NEIGHBOURS = 0.7  # times the fifth root of the number of images
FAR = 1e9  # a distance whose vote is 0, with gradients that are numbers
BEYOND = 1e4  # where the outermost digits end
NARROWEST = 1e-6  # a width, as a share of the fitted one: step 0


class MovedVotes(nn.Module):
    """The fitted numbers: a row for each token position up to OWN_TOKENS, one for all after them.

    A place f = token position * digits + digit. A row listens to at most OWN_TOKENS earlier tokens,
    whose C digits are its context.
    """

    regression: type[Regression] = Regression
    edges_of_codes: Tensor  # [D, values - 1], half way between two codes of a digit
    images: Tensor  # int64 [M], rows of the index that the regression was fitted to, ascending
    positions: Tensor  # int64 [M], where the last row saw each of them, if it stands for many
    leverage: Tensor  # [R, M, D], how much each of those images weighed in its own prediction

    def __init__(
        self, levels: tuple[int, ...], tokens_per_image: int, rank: int = MOST_RANK, images: int = 0
    ):
        """rank: projected numbers of a context, at most; images: M."""
        super().__init__()
        self.levels = levels
        self.digits = len(levels)
        self.tokens = tokens_per_image
        self.rank = rank
        self.rows = min(tokens_per_image, OWN_TOKENS + 1)

        # Where a digit lies for the distance: at first where the quantizer has it.
        codes = fsq_places(levels)
        self.codes = nn.Parameter(codes.repeat(self.rows, 1))  # [R * D, values]
        self.projections = nn.ParameterList(
            nn.Parameter(_first_projection(r, self.digits, rank)) for r in range(self.rows)
        )
        self.sharpness = nn.Parameter(torch.zeros(self.rows))  # log factors of squared distances

        self.register_buffer("edges_of_codes", (codes[:, 1:] + codes[:, :-1]) / 2, persistent=False)
        self.edges = nn.Parameter(self.edges_of_codes.repeat(self.rows, 1, 1))  # [R, D, values - 1]
        self.log_width = nn.Parameter(torch.full((self.rows, self.digits), -2.7))  # of a step
        # Of the moved votes, of votes as they stand (the first token's alone), of uniform tokens.
        self.share_logits = nn.Parameter(torch.tensor([3.0, 0.0, 0.0]).repeat(self.rows, 1))

        landmarks = landmarks_of(images, self.rows)
        self.regressions = nn.ModuleList(
            self.regression(r, levels, landmarks) for r in range(self.rows)
        )
        self.register_buffer("images", torch.zeros(images, dtype=torch.int64))
        self.register_buffer("positions", torch.zeros(images, dtype=torch.int64))
        self.register_buffer("leverage", torch.zeros(self.rows, images, self.digits))

    def row(self, position: int) -> int:
        """Where the numbers of a token position stand."""
        return min(position, self.rows - 1)

    def regression_at(self, position: int) -> Regression:
        regression = self.regressions[self.row(position)]
        assert isinstance(regression, Regression)
        return regression

    def embed(self, digits: Tensor, position: int) -> Tensor:
        """Digits uint8 [n, >= position * D] -> the context for the distance: [n, C]."""
        context = context_places(position, self.digits)
        codes = self.codes[self.code_rows(position)]  # [C, values]
        return codes.gather(1, digits[:, context].T.long()).T

    def code_rows(self, position: int) -> Tensor:
        """The rows of `codes` of a context: int64 [C]."""
        context = torch.tensor(context_places(position, self.digits), dtype=torch.int64)
        row = (context // self.digits).clamp(max=self.rows - 1)
        return row * self.digits + context % self.digits

    def project(self, digits: Tensor, position: int) -> Tensor:
        """The numbers [n, r] of contexts whose squared distance decides the votes."""
        return self.embed(digits, position) @ self.projection(position).T

    def projection(self, position: int) -> Tensor:
        """What contexts are multiplied with: [r, C]."""
        row = self.row(position)
        return self.projections[row] * (self.sharpness[row] / 2).exp()

    def shares(self, position: int, step: float = 1.0) -> Tensor:
        """Of moved votes, of votes as they stand, of uniform tokens, which `step` scales: [3]."""
        logits = self.share_logits[self.row(position)]
        if position:
            logits = torch.stack([logits[0], logits.new_tensor(-math.inf), logits[2]])
        shares = logits.softmax(0)
        uniform = shares[2:] * min(step, 1.0)
        return torch.cat([shares[:2] * ((1 - uniform) / (1 - shares[2:])), uniform])

    def chances(
        self,
        position: int,
        digit: int,
        wanted: Tensor,
        offers: Tensor,
        *,
        step: float = 1.0,
        temperature: float = 1.0,
    ) -> Tensor:
        """The chance that an offer [n, N], in codes, becomes a wanted digit int64 [n, 1] (or what
        broadcasts): the logistic's mass between its edges, [n, N]."""
        row = self.row(position)
        level = self.levels[digit]
        # A step of 0 gives the voter's own digit, wherever the edges were fitted to lie.
        given = self.edges_of_codes[digit, : level - 1]
        edges = given + min(step, 1.0) * (self.edges[row, digit, : level - 1] - given)
        end = edges.new_tensor([BEYOND])
        edges = torch.cat([-end, edges, end])
        low, high = edges[wanted], edges[wanted + 1]
        narrow = (-self.log_width[row, digit]).exp() / max(step * temperature, NARROWEST)
        # Where both sigmoids are small: the difference of two numbers near 1 has no digits left.
        side = torch.where(low + high > 2 * offers, -narrow, narrow)
        return (torch.sigmoid(side * (high - offers)) - torch.sigmoid(side * (low - offers))).abs()

    def own_codes(self, digits: Tensor, position: int) -> Tensor:
        """The codes of a token's digits, of uint8 [n, F], as the quantizer has them: [n, D]."""
        return _given_codes(digits, _places([position], self.digits), self.levels)

    def means(self, digits: Tensor, position: int, expected: Tensor | None = None) -> Tensor:
        """What the regression makes of digits uint8 [n, > position * D]: the mean codes of the
        token's digits, each from those before it, [n, D].

        expected: what `expect` made of the context, where its digits are the same.
        """
        return self.regression_at(position).predict(self._codes_of(digits, position), expected)

    def expect(self, digits: Tensor, position: int) -> Tensor:
        """The part of the means that is the context's alone: [n, D]."""
        return self.regression_at(position).expect(self._codes_of(digits, position))

    def _codes_of(self, digits: Tensor, position: int) -> Tensor:
        """The codes of the context and of the token: [n, C + D]."""
        own = _places([position], self.digits)
        return _given_codes(digits, context_places(position, self.digits) + own, self.levels)

    def training_codes(self, digits: Tensor, row: int) -> Tensor:
        """What the regression of a row is fitted to: digits uint8 [M, F] of images -> codes
        of context and token, [M, C + D]. Of a row for many positions each image has its own."""
        if row < OWN_TOKENS:
            return self._codes_of(digits, row)
        codes = torch.empty((len(digits), (OWN_TOKENS + 1) * self.digits), device=digits.device)
        for position in self.positions.unique().tolist():
            seen = self.positions == position
            codes[seen] = self._codes_of(digits[seen], position)
        return codes

    def residuals(self, digits: Tensor, position: int, images: Tensor) -> Tensor:
        """How far the digits uint8 [n, F] of the rows `images` [n] of the index lie from what the
        others let expect, in codes: [n, D].

        Those that the regression was fitted to are left out of it: r / (1 - h).
        """
        error = self.own_codes(digits, position) - self.means(digits, position)
        if not len(self.images):
            return error
        found = torch.searchsorted(self.images, images).clamp(max=len(self.images) - 1)
        known = self.images[found] == images
        if position >= OWN_TOKENS:
            known &= self.positions[found] == position
        leverage = torch.where(known[:, None], self.leverage[self.row(position), found], 0.0)
        return error / (1 - leverage)

    @torch.no_grad()
    def listening(self) -> Tensor:
        """Which position listens to which: [L, L], rows sum to 1. The share that each earlier token
        has in the squared distance that decides the votes, were all digits uniform."""
        shares = torch.zeros(self.tokens, self.tokens)
        spread = self.codes.var(1, correction=0).cpu()
        for position in range(1, self.tokens):
            context = torch.tensor(context_places(position, self.digits))
            weights = self.projections[self.row(position)].square().sum(0).cpu()
            weights = weights * spread[self.code_rows(position)]
            shares[position].index_add_(0, context // self.digits, weights)
        shares[0, 0] = 1
        return shares / shares.sum(1, keepdim=True).clamp(min=1e-12)


def _first_projection(row: int, digits: int, rank: int) -> Tensor:
    """Where the metric starts: the last `rank` digits themselves, [<= rank, C]."""
    size = len(context_places(row, digits))
    return torch.eye(size)[-min(size, rank) :]


def context_places(position: int, digits: int) -> list[int]:
    """The digits that a token listens to: those of the first FIRST_TOKENS and the last LAST_TOKENS
    before it.

    >>> context_places(2, 3)
    [0, 1, 2, 3, 4, 5]
    """
    tokens = [*range(position)]
    if position > OWN_TOKENS:
        tokens = [*range(FIRST_TOKENS), *range(position - LAST_TOKENS, position)]
    return _places(tokens, digits)


def _places(tokens: list[int], digits: int) -> list[int]:
    return [token * digits + digit for token in tokens for digit in range(digits)]


def neighbours_of(images: int) -> int:
    """How many of so many images are heard as loud as the nearest.

    >>> neighbours_of(1_608), neighbours_of(17_979), neighbours_of(53_929)
    (4, 5, 6)
    """
    return max(LEAST_NEIGHBOURS, round(NEIGHBOURS * images**0.2))


def fsq_places(levels: tuple[int, ...]) -> Tensor:
    """Where the quantizer has the digits, in [-1, 1]: [D, values], 0 beyond a digit's level."""
    codes = torch.zeros(len(levels), max(levels))
    for digit, level in enumerate(levels):
        codes[digit, :level] = (torch.arange(level) - level // 2) / (level // 2)
    return codes


def _given_codes(digits: Tensor, places: list[int], levels: tuple[int, ...]) -> Tensor:
    """Digits uint8 [n, F] -> the quantizer's codes at some places: float32 [n, places]."""
    halves = [levels[place % len(levels)] // 2 for place in places]
    return digits[:, places].float() / torch.tensor(halves, device=digits.device) - 1


def digits_of(tokens: Tokens, levels: tuple[int, ...], device: torch.device) -> Tensor:
    """Tokens [n, k] -> their digits, uint8 [n, k * len(levels)]."""
    digits = _digit_table(levels)[tokens]
    return torch.from_numpy(digits.reshape(len(tokens), math.prod(digits.shape[1:]))).to(device)


@functools.cache
def _digit_table(levels: tuple[int, ...]) -> NDArray[np.uint8]:
    """The digits of all ids, [vocab_size, D]: to look them up takes an eighth of the memory."""
    return fsq_digits(np.arange(math.prod(levels)), levels).astype(np.uint8)
