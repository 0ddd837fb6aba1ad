"""The votes of all indexed images for what follows (kernel.py has the formula): the fast way, of a fitted metric."""

import itertools
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from imagegram.machine import cores
from imagegram.samplers.kernel.model import FAR, FIRST_TOKENS, LAST_TOKENS, Kernel, digits_of

MAX_PAIRS = 1 << 26  # votes held at a time, 256 MB
ROWS = 320  # sequences whose votes a core counts at a time, at most
CACHE = 1 << 19  # votes that it counts at a time, 2 MB
PART = 512  # images whose votes are summed together: a source is drawn from one part of them
PARTS = 32  # of the images on a GPU, which sums them side by side
# Of a vote, where the nearest image's is 0. From -87 on float32 numbers are subnormal, and exp takes 14 times as long.
LEAST_LOG = -80.0


@dataclass(frozen=True)
class Votes:
    """The votes of N images for the digit of n sequences, not scaled to a sum of 1."""

    each: Tensor  # [n, N]
    sums: Tensor  # [parts, n, values]: those of a part of the images for each digit
    part: int  # images


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

    def _factors(self, place: int, queries: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What the rows of `context` are multiplied with to give distances less that of the query to 0, [n, rows]; the
        weights of the rows [rows]; and the queries' distances to 0, [n, 1]."""
        rows = self._read(self.model.contexts[place])
        count = 1 + max(rows, default=0)
        weight = torch.zeros(count, device=self.device)
        weight[rows] = self.model.weights(place)
        x = torch.zeros((queries.shape[1], count), device=self.device)
        x[:, rows] = queries[self.model.contexts[place]].T
        factors = -2 * x * weight
        factors[:, 0] = 1
        return factors, weight, (x.square() @ weight)[:, None]

    def votes(self, place: int, queries: Tensor, own: Tensor | None = None) -> Votes:
        """The votes for n sequences, whose memory the next call takes.

        queries: [>= place, n] of `embed`; own [n]: an image that must say nothing.
        """
        factors, weight, to_zero = self._factors(place, queries)
        n, count = factors.shape
        images = self.context.shape[1]
        if len(self.matrix) < n:
            self.matrix = torch.empty((n, images), device=self.device)
        matrix = self.matrix[:n]

        # Some sequences and a tile of the images stay in the cache of a core. A GPU takes all of them at once.
        part = -(-images // PARTS) if self.gpu else PART
        at_once = n if self.gpu else -(-n // -(-n // ROWS))
        tiles = slices(images, images if self.gpu else max(1, CACHE // at_once // part) * part)
        groups = slices(n, at_once)
        blocks = list(itertools.product(tiles, groups))
        run = self.pool.map if len(blocks) > 1 else map

        @torch.inference_mode()
        def add_norms(tile: slice) -> None:
            torch.mv(self.squares[:count, tile].T, weight, out=self.context[0, tile])

        @torch.inference_mode()
        def compare(block: tuple[slice, slice]) -> Tensor:
            """Have the distances, less that of x to 0, in the matrix; those of the nearest image of a tile: [rows]."""
            tile, rows = block
            distance = torch.mm(factors[rows], self.context[:count, tile], out=matrix[rows, tile])
            if own is not None:
                left_out = own[rows]
                mine = torch.nonzero((left_out >= tile.start) & (left_out < tile.stop))[:, 0]
                distance[mine, left_out[mine] - tile.start] = FAR
            return distance.amin(1)

        list(run(add_norms, tiles))
        nearest = torch.cat(list(run(compare, blocks))).view(len(tiles), n).amin(0)[:, None]
        scale = self.model.width(place, nearest + to_zero)
        digits = torch.eye(self.model.allowed.shape[1], device=self.device)

        @torch.inference_mode()
        def vote(block: tuple[slice, slice]) -> Tensor:
            """Turn the distances into votes; those of a tile for each digit: [parts, rows, values]."""
            tile, rows = block
            votes = matrix[rows, tile]
            held = digits.index_select(1, self.digits[place, tile].int()).T
            if self.gpu:
                torch.addcmul(nearest / scale, votes, -1 / scale, out=votes).exp_()  # one pass over memory fewer
                return products_of_parts(votes, held, part)
            votes.sub_(nearest[rows]).div_(-scale[rows]).clamp_(min=LEAST_LOG).exp_()
            return torch.stack([votes[:, few] @ held[few] for few in slices(len(held), part)])

        sums = list(run(vote, blocks))
        of_tiles = [torch.cat(sums[first : first + len(groups)], 1) for first in range(0, len(sums), len(groups))]
        return Votes(matrix, torch.cat(of_tiles), part)

    def probabilities(
        self, place: int, queries: Tensor, step: float, own: Tensor | None = None
    ) -> tuple[Votes, Tensor]:
        """The votes, and the distribution of the digit [n, values], after `queries` [place, n]."""
        votes = self.votes(place, queries, own)
        sums = votes.sums.sum(0)
        return votes, self.model.mixture(place, sums / sums.sum(1, keepdim=True), step)


def slices(length: int, size: int) -> list[slice]:
    """0 to `length`, `size` at a time."""
    return [slice(first, min(first + size, length)) for first in range(0, length, size)]


def products_of_parts(a: Tensor, b: Tensor, size: int) -> Tensor:
    """The summands of a [n, N] @ b [N, few], each of `size` columns, the last of those that are left: [parts, n, few].

    A GPU has a processor for each block of a product, of which there are few here: it takes all parts side by side.
    """
    whole = len(b) // size * size
    left = a[:, :whole].unflatten(1, (-1, size)).transpose(0, 1)
    products = torch.bmm(left, b[:whole].unflatten(0, (-1, size)))
    return products if whole == len(b) else torch.cat([products, (a[:, whole:] @ b[whole:])[None]])


def sequences_at_once(num_images: int) -> int:
    """How many sequences are predicted together: their votes are held in memory."""
    return max(1, MAX_PAIRS // num_images)
