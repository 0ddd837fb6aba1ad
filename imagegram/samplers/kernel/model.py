"""The metric of the kernel n-gram: the numbers that are fitted, and what they mean (kernel.py has the formula)."""

import functools
import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from imagegram.codec.fsq import fsq_digits

FIRST_TOKENS = 8
LAST_TOKENS = 24  # of the earlier tokens these are the context: all of them up to 32
OWN_TOKENS = FIRST_TOKENS + LAST_TOKENS  # have numbers of their own; all later tokens share one set of them
EPS = 0.3
FAR = 1e9  # a distance whose vote is 0, with gradients that are numbers


class Kernel(nn.Module):
    """The fitted numbers. A place f = token position * digits + digit is one of F = tokens_per_image * len(levels).

    Places after the first OWN_TOKENS tokens listen to as many earlier ones each, and share the numbers of the last of R
    rows: 24 tokens back counts alike for all of them. Images that short have R = F, a row for every place.
    """

    allowed: Tensor  # bool [R, values]: a digit is below its level
    unigram: Tensor  # [F, values]

    def __init__(self, levels: tuple[int, ...], tokens_per_image: int):
        super().__init__()
        self.levels = levels
        self.digits = len(levels)
        self.places = tokens_per_image * self.digits
        self.rows = min(tokens_per_image, OWN_TOKENS + 1) * self.digits
        values = max(levels)

        # Digits as FSQ codes in [-1, 1], to begin with.
        codes = torch.zeros(self.rows, values)
        allowed = torch.zeros(self.rows, values, dtype=torch.bool)
        for place in range(self.rows):
            level = levels[place % self.digits]
            codes[place, :level] = (torch.arange(level) - level // 2) / (level // 2)
            allowed[place, :level] = True
        self.codes = nn.Parameter(codes)  # [R, values]
        self.register_buffer("allowed", allowed)

        self.contexts = [earlier_places(place, self.digits) for place in range(self.places)]
        longest = max(len(context) for context in self.contexts)
        weights = torch.full((self.rows, longest), -math.inf)
        for place, context in enumerate(self.contexts[: self.rows]):
            position = place // self.digits
            same = torch.tensor([other // self.digits == position for other in context], dtype=torch.bool)
            # Later tokens are predicted from more tokens, each of which then says less.
            weights[place, : len(context)] = torch.where(same, math.log(3), math.log(max(0.3, 20 / 1.2**position)))
        self.log_weights = nn.Parameter(weights)  # [R, C]

        squares = (codes[:, :, None] - codes[:, None, :]).square()
        self.step_logits = nn.Parameter(-squares / 0.07)  # [R, from, to]
        self.share_logits = nn.Parameter(torch.tensor([[3.0, 0.0, 0.0]]).repeat(self.rows, 1))  # [R, 3]
        # Where tokens share their numbers the width is the same everywhere: a vote depends on its own image alone.
        self.widening = nn.Parameter(torch.zeros(self.rows), requires_grad=not self.shared)  # [R], the exponent g
        self.register_buffer("unigram", torch.zeros(self.places, values))

    @property
    def shared(self) -> bool:
        """Whether places share rows."""
        return self.rows < self.places

    def row(self, place: int) -> int:
        """Where the numbers of a place stand."""
        return place if place < self.rows else self.rows - self.digits + place % self.digits

    def codes_of(self, places: Sequence[int]) -> Tensor:
        """Where the digits of some places lie: [places, values]."""
        return self.codes[[self.row(place) for place in places]]

    def embed(self, digits: Tensor) -> Tensor:
        """Digits [n, F'] of the first F' places -> their places on the line, float32 [F', n]."""
        return self.codes_of(range(digits.shape[1])).gather(1, digits.T.long())

    def weights(self, place: int) -> Tensor:
        """What each place of `contexts[place]` weighs: [C]."""
        return self.log_weights[self.row(place), : len(self.contexts[place])].exp()

    def votes(self, place: int, queries: Tensor, library: Tensor, own: Tensor | None = None) -> Tensor:
        """How much each of N images says about `place` of n sequences: [n, N], each row sums to 1."""
        distance = self.distances(place, queries, library, own)
        return torch.softmax(distance * (-1 / self.width(place, distance.detach().amin(1, keepdim=True))), 1)

    def distances(self, place: int, queries: Tensor, library: Tensor, own: Tensor | None = None) -> Tensor:
        """How far N images are from n sequences, for what follows at `place`: [n, N].

        queries: [>= place, n] and library: [F, N], both of `embed`; own [n]: an image that must say nothing.
        """
        context = torch.tensor(self.contexts[place], dtype=torch.long, device=library.device)
        x = queries[context].T  # [n, C]
        y = library[context]  # [C, N]
        weight = self.weights(place)
        distance = torch.addmm((weight @ y.square())[None], x * (-2 * weight), y) + (x.square() @ weight)[:, None]
        distance = distance.clamp(min=0)
        return distance if own is None else distance.scatter(1, own[:, None], FAR)

    def width(self, place: int, nearest: Tensor) -> Tensor:
        """What the distances are divided by where the nearest image is that far away: [n, 1] -> [n, 1]."""
        return (nearest.clamp(min=0) + EPS) ** self.widening[self.row(place)]

    def steps(self, place: int, step: float = 1.0) -> Tensor:
        """The chance that a source's digit becomes another: [from, to]. `step` 0 keeps it as it is."""
        allowed = self.allowed[self.row(place)]
        if step == 0:
            return torch.eye(len(allowed), device=allowed.device)
        logits = (self.step_logits[self.row(place)] / step).masked_fill(~allowed[None], -math.inf)
        return logits.softmax(1)

    def shares(self, place: int, step: float = 1.0) -> Tensor:
        """The shares of the votes, of the unigram and of the uniform floor: [3]. `step` scales the last two as well."""
        shares = self.share_logits[self.row(place)].softmax(0)
        rest = shares[1:] * min(step, 1.0)
        return torch.cat([1 - rest.sum(0, keepdim=True), rest])

    def log2_probabilities(
        self, queries: Tensor, library: Tensor, places: Sequence[int], own: Tensor | None = None
    ) -> Tensor:
        """log2 of the probability of the digits of `queries` [n, F] at `places`, after those before: [n, places].

        library: the digits [N, F] of the images that vote; own [n]: of these, one that must say nothing.
        """
        stop = max(places) + 1
        x = self.embed(queries[:, :stop])
        y = self.embed(library[:, :stop])
        result = []
        for place in places:
            votes = self.votes(place, x, y, own)
            p = self.probabilities(place, votes, library[:, place])
            result.append(p.gather(1, queries[:, place : place + 1].long())[:, 0].log2())
        return torch.stack(result, 1)

    @torch.no_grad()
    def listening(self) -> Tensor:
        """Which position listens to which: [L, L], rows sum to 1. Row i: the share of the distance that decides the
        votes at position i which comes, on average over images, from the digits of each position up to i itself."""
        codes = self.codes_of(range(self.places))
        mean = (self.unigram * codes).sum(1)
        spread = (self.unigram * codes.square()).sum(1) - mean.square()  # [F], of two images: twice as much
        shares = torch.zeros(self.places, self.places)
        for place, context in enumerate(self.contexts):
            shares[place, context] = self.weights(place) * spread[context]
        length = self.places // self.digits
        by_position = shares.view(length, self.digits, length, self.digits).sum((1, 3))
        return by_position / by_position.sum(1, keepdim=True).clamp(min=1e-12)

    def probabilities(self, place: int, votes: Tensor, digits: Tensor, step: float = 1.0) -> Tensor:
        """The distribution of the digit at `place`: [n, values]. votes [n, N]; digits [N]: the images' own."""
        sources = votes @ nn.functional.one_hot(digits.long(), self.allowed.shape[1]).to(votes.dtype)
        return self.mixture(place, sources, step)

    def mixture(self, place: int, sources: Tensor, step: float = 1.0) -> Tensor:
        """The same from the votes for each digit [n, values]: they step, and unigram and floor join them."""
        allowed = self.allowed[self.row(place)]
        shares = self.shares(place, step)
        floor = allowed / allowed.sum()
        return shares[0] * (sources @ self.steps(place, step)) + shares[1] * self.unigram[place] + shares[2] * floor


def earlier_places(place: int, digits: int) -> list[int]:
    """The earlier places that the digit at `place` may listen to: of FIRST_TOKENS, LAST_TOKENS and its own token."""
    position = place // digits
    recent = max(0, position - LAST_TOKENS)
    return [other for other in range(place) if other // digits < FIRST_TOKENS or other // digits >= recent]


def digits_of(tokens: NDArray[np.uint16], levels: tuple[int, ...], device: torch.device) -> Tensor:
    """Tokens [n, k] -> their digits, uint8 [n, k * len(levels)]."""
    return torch.from_numpy(_digit_table(levels)[tokens].reshape(len(tokens), -1)).to(device)


@functools.cache
def _digit_table(levels: tuple[int, ...]) -> NDArray[np.uint8]:
    """The digits of all ids: [vocab_size, len(levels)]. To look them up takes an eighth of the memory."""
    return fsq_digits(np.arange(math.prod(levels)), levels).astype(np.uint8)
