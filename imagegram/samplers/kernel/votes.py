"""The votes of all indexed images (drawing.py has the formula), without ever storing one for each image and sequence.

Squared distances, less what all images have in common, are one product of two small matrices: of a
sequence [2 x, -1, reference] and of an image [y, |y|^2, 1]. A core takes a block of sequences and a
tile of images, turns the product into weights, and keeps their sums alone. To draw an image, a part of
PART images is drawn by its sum first, then an image of that part, whose weights are made again.
"""

import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from imagegram.machine import cores
from imagegram.samplers.kernel.model import FAR, FIRST_TOKENS, LAST_TOKENS, MovedVotes, context_places, digits_of

PART = 512  # images whose votes are summed together
ROWS = 128  # sequences whose votes a core counts at a time, at most
TILE = 4096  # images that it counts at a time: 2 MB of votes
GPU_TILE = 1 << 18
SAMPLE = 1024  # images whose nearest is the reference of the weights
# exp takes 14 times as long where its result is subnormal, from -87 on; above 88 it is infinite.
LEAST_LOG = -80.0
MOST_LOG = 80.0
PICKS_AT_ONCE = 128  # of an image from its part


class Library:
    """The indexed images as the votes see them, one token position after another."""

    def __init__(self, tokens: NDArray[np.uint16], model: MovedVotes):
        """tokens: [N, L], of the indexed images."""
        self.model = model
        self.device = model.codes.device
        self.size = len(tokens)
        self.digits = digits_of(tokens, model.levels, self.device).T.contiguous()  # uint8 [F, N]
        self.tile = GPU_TILE if self.device.type != "cpu" else TILE
        self.pool = ThreadPoolExecutor(min(torch.get_num_threads(), cores()))

        # Where the digits of earlier tokens lie: those of the first tokens stay, later ones take turns.
        first = FIRST_TOKENS * model.digits
        turns = (LAST_TOKENS + 1) * model.digits
        places = model.tokens * model.digits
        self.rows = [place if place < first else first + (place - first) % turns for place in range(places)]
        self.held = [-1] * min(places, first + turns)  # the place that is in a row
        self.context = torch.zeros((len(self.held), self.size), device=self.device)
        padded = -(-self.size // PART) * PART
        self.factors = torch.zeros((model.rank + 2, padded), device=self.device)  # used again for every position

    def prepare(self, position: int) -> Tensor:
        """The images' factor of the distances at a position: [r + 2, N and some that nobody draws]."""
        model = self.model
        context = context_places(position, model.digits)
        for place in context:
            row = self.rows[place]
            if self.held[row] != place:
                codes = model.codes_at(place // model.digits)[place % model.digits]
                torch.index_select(codes, 0, self.digits[place].int(), out=self.context[row])
                self.held[row] = place

        # The product takes the rows as they lie, so that none is copied.
        held = max((self.rows[place] for place in context), default=-1) + 1
        row = model.row(position)
        matrix = torch.zeros((len(model.projections[row]), held), device=self.device)
        if context:
            matrix[:, [self.rows[place] for place in context]] = model.projections[row]
            matrix *= (model.sharpness[row] / 2).exp()
        rank = len(matrix)
        factors = self.factors[: rank + 2]
        factors[:rank, self.size :] = 0  # what an earlier position left where no image is
        factors[rank].fill_(FAR)
        factors[rank + 1].fill_(1)
        for tile in slices(self.size, self.tile):
            numbers = torch.mm(matrix, self.context[:held, tile], out=factors[:rank, tile])
            torch.sum(numbers.square(), 0, out=factors[rank, tile])
        return factors

    def against(self, position: int, queries: Tensor, temperature: float, factors: Tensor) -> tuple[Tensor, Tensor]:
        """The sequences' factor, [n, r + 2]: with `factors` of `prepare`, it gives the log of each weight; and the most
        that a log may be, [n, 1]: that of an image at the distance `model.nearest`.

        queries: uint8 [n, >= position * D]. The nearest of a sample of the images has weight 1.
        """
        if position:
            numbers = self.model.project(self.model.embed(queries, position), position)
        else:
            numbers = torch.zeros((len(queries), 0), device=self.device)
        minus = -torch.ones_like(numbers.new_empty(len(queries), 1))
        own = torch.cat([2 * numbers, minus, torch.zeros_like(minus)], 1) / temperature
        few = factors[:, : self.size : -(-self.size // SAMPLE)]
        own[:, -1] = -(own @ few).amax(1)
        least = self.model.nearest[self.model.row(position)]
        most = own[:, -1:] + (numbers.square().sum(1, keepdim=True) - least) / temperature
        return own, most

    def blocks(self, n: int, run: Callable[[slice, slice], None]) -> None:
        """Call `run` with a block of n sequences and a tile of the images, all pairs of them, on all cores."""
        pairs = itertools.product(slices(self.size, self.tile), slices(n, self.tile if self.gpu else ROWS))

        @torch.inference_mode()
        def one(pair: tuple[slice, slice]) -> None:
            run(pair[1], pair[0])

        list(self.pool.map(one, pairs))

    @property
    def gpu(self) -> bool:
        return self.device.type != "cpu"

    def draw(self, position: int, queries: Tensor, uniform: Tensor, temperature: float) -> Tensor:
        """One image for each of n sequences, by its vote: int64 [n].

        uniform: float64 [n, 2], in [0, 1).
        """
        n = len(queries)
        if not position:
            return (uniform[:, 0] * self.size).long().clamp(max=self.size - 1)
        factors = self.prepare(position)
        own, most = self.against(position, queries, temperature, factors)
        sums = torch.empty((n, factors.shape[1] // PART), device=self.device)

        def add(rows: slice, tile: slice) -> None:
            whole = slice(tile.start, -(-tile.stop // PART) * PART)
            logs = own[rows] @ factors[:, whole]
            weights = torch.minimum(logs, most[rows], out=logs).clamp_(LEAST_LOG, MOST_LOG).exp_()
            sums[rows, whole.start // PART : whole.stop // PART] = weights.unflatten(1, (-1, PART)).sum(2)

        self.blocks(n, add)
        self._mend(own, most, sums, factors, add)

        # A part by its sum, an image by its weight.
        cumulative = sums.double().cumsum(1)
        wanted = uniform[:, :1] * cumulative[:, -1:]
        parts = torch.searchsorted(cumulative, wanted, right=True)[:, 0].clamp(max=sums.shape[1] - 1)
        by_part = factors.unflatten(1, (-1, PART))
        images = []
        for rows in slices(n, PICKS_AT_ONCE):
            weights = torch.einsum("nr,rnp->np", own[rows], by_part[:, parts[rows]])
            within = weights.minimum(most[rows]).clamp_(LEAST_LOG, MOST_LOG).exp_().double().cumsum(1)
            picks = torch.searchsorted(within, uniform[rows, 1:] * within[:, -1:], right=True)[:, 0]
            images.append(parts[rows] * PART + picks.clamp(max=PART - 1))
        return torch.cat(images).clamp(max=self.size - 1)

    def _mend(
        self, own: Tensor, most: Tensor, sums: Tensor, factors: Tensor, add: Callable[[slice, slice], None]
    ) -> None:
        """Where an image is so much nearer than the sample that its weight was cut, count again from it."""
        for row in torch.nonzero(sums.amax(1) > np.exp(MOST_LOG - 5))[:, 0].tolist():
            nearest = torch.stack(
                [(own[row] @ factors[:, tile]).amax() for tile in slices(self.size, self.tile)]
            ).amax()
            own[row, -1] -= nearest
            most[row] -= nearest
            for tile in slices(self.size, self.tile):
                add(slice(row, row + 1), tile)

    def shares(
        self,
        position: int,
        queries: Tensor,
        offered: Callable[[slice, slice], Tensor],
        *,
        temperature: float,
        leave_out: Tensor | None = None,
    ) -> Tensor:
        """The mean, weighed by the votes, of what all images offer to n sequences: float64 [n].

        offered: of a block of sequences and a tile of images, [rows, images]. leave_out [n]: an image
        that must say nothing.
        """
        n = len(queries)
        factors = self.prepare(position)
        own, most = self.against(position, queries, temperature, factors)
        tiles = slices(self.size, self.tile)
        # Of each tile the log of its best weight, the sum of all, and the sum of what they offer.
        kept = torch.empty((3, n, len(tiles)), dtype=torch.float64, device=self.device)

        def add(rows: slice, tile: slice) -> None:
            logs = own[rows] @ factors[:, tile]
            logs = torch.minimum(logs, most[rows], out=logs)
            if leave_out is not None:
                mine = torch.nonzero((leave_out[rows] >= tile.start) & (leave_out[rows] < tile.stop))[:, 0]
                logs[mine, leave_out[rows][mine] - tile.start] = -FAR
            best = logs.amax(1, keepdim=True)
            weights = (logs - best).clamp_(min=LEAST_LOG).exp_()
            number = tile.start // self.tile
            kept[0, rows, number] = best[:, 0].double()
            kept[1, rows, number] = weights.sum(1).double()
            kept[2, rows, number] = (weights * offered(rows, tile)).sum(1).double()

        self.blocks(n, add)
        scale = (kept[0] - kept[0].amax(1, keepdim=True)).exp()
        return (kept[2] * scale).sum(1) / (kept[1] * scale).sum(1)


def slices(length: int, size: int) -> list[slice]:
    """0 to `length`, `size` at a time."""
    return [slice(first, min(first + size, length)) for first in range(0, length, size)]
