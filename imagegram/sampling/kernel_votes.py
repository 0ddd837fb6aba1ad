"""The votes of all indexed images for what follows (kernel.py has the formula): the fast way, of a fitted metric."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from imagegram.machine import cores
from imagegram.sampling.kernel_metric import FAR, FIRST_TOKENS, LAST_TOKENS, Kernel, digits_of

MAX_PAIRS = 1 << 26  # votes held at a time, 256 MB
CACHE = 1 << 20  # votes of a tile, 4 MB
LEAST_TILE = 512  # images
# Of a vote, where the nearest image's is 0. From -87 on float32 numbers are subnormal, and exp takes 14 times as long.
LEAST_LOG = -80.0
PARTS = 32  # of the images, whose votes a GPU sums side by side


@dataclass(frozen=True)
class Votes:
    """The votes of N images for the digit of n sequences, not scaled to a sum of 1."""

    each: Tensor  # [n, N]
    sums: Tensor  # [tiles, n, values]: those of a tile of the images for each digit
    tile: int  # images


class Library:
    """The indexed images as a kernel sees them, ready to vote for many sequences, one place after another."""

    def __init__(self, tokens: NDArray[np.uint16], model: Kernel):
        """tokens: [N, L], of the indexed images."""
        self.model = model
        self.device = model.codes.device
        self.gpu = self.device.type != "cpu"
        self.digits = digits_of(tokens, model.levels, self.device).T.contiguous()  # uint8 [F, N]

        # Row 0: what an image's distance adds for itself. After it: where the digits of the earlier places lie, each in
        # a row of its own. Those of the first tokens stay, later ones take turns.
        first = FIRST_TOKENS * model.digits
        turns = (LAST_TOKENS + 1) * model.digits
        self.rows = [1 + (place if place < first else first + (place - first) % turns) for place in range(model.places)]
        self.held = [-1] * (1 + min(model.places, first + turns))  # the place that is in a row
        self.context = torch.zeros((len(self.held), len(tokens)), device=self.device)
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

        # A tile of the matrix stays in the cache of a core. A GPU takes all images at once, and sums them by tiles.
        size = -(-images // PARTS) if self.gpu else max(LEAST_TILE, CACHE // n)
        step = images if self.gpu else size
        tiles = [slice(first, min(first + step, images)) for first in range(0, images, step)]
        run = self.pool.map if len(tiles) > 1 else map
        nearest = torch.stack(list(run(compare, tiles))).amin(0)[:, None]
        scale = model.width(place, nearest + (x.square() @ weight)[:, None])
        digits = torch.eye(model.allowed.shape[1], device=self.device)

        @torch.inference_mode()
        def vote(tile: slice) -> Tensor:
            """Turn the distances of some images into votes; those for each digit: [tiles, n, values]."""
            votes = self.matrix[:, tile]
            held = digits.index_select(1, self.digits[place, tile].int()).T
            if self.gpu:
                torch.addcmul(nearest / scale, votes, -1 / scale, out=votes).exp_()  # one pass over memory fewer
                return products_of_parts(votes, held, size)
            votes.sub_(nearest).div_(-scale).clamp_(min=LEAST_LOG).exp_()
            return (votes @ held)[None]

        return Votes(self.matrix, torch.cat(list(run(vote, tiles))), size)

    def probabilities(
        self, place: int, queries: Tensor, step: float, own: Tensor | None = None
    ) -> tuple[Votes, Tensor]:
        """The votes, and the distribution of the digit [n, values], after `queries` [place, n]."""
        votes = self.votes(place, queries, own)
        sums = votes.sums.sum(0)
        return votes, self.model.mixture(place, sums / sums.sum(1, keepdim=True), step)


def products_of_parts(a: Tensor, b: Tensor, size: int) -> Tensor:
    """The summands of a [n, N] @ b [N, few], each of `size` columns, the last of what is left: [N // size + 1, n, few].

    A GPU has a processor for each block of a product, of which there are few here: it takes all parts side by side.
    """
    whole = len(b) // size * size
    left = a[:, :whole].unflatten(1, (-1, size)).transpose(0, 1)
    products = torch.bmm(left, b[:whole].unflatten(0, (-1, size)))
    return torch.cat([products, (a[:, whole:] @ b[whole:])[None]])


def sequences_at_once(num_images: int) -> int:
    """How many sequences are predicted together: their votes are held in memory."""
    return max(1, MAX_PAIRS // num_images)
