"""The votes of all indexed images (drawing.py has the formula), without ever storing one for each image and sequence.

Squared distances, less what all images have in common, are one product of two small matrices: of a
sequence [2 x, -1] and of an image [y, |y|^2]. A core takes a block of sequences and a tile of images.

To draw an image by its vote, the votes of all others are not made: images stand in groups of GROUP, and a
pass over all of them finds the nearest of each group. As many votes as that one has, times GROUP, are
more than the group can have; of the NEAREST groups the votes are made. So a group is proposed by its votes
or this bound, and accepted with the share of it that its votes reach: rejection keeps the distribution
exact. Where all of ATTEMPTS proposals are rejected, the votes of all images are made after all.
"""

import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from imagegram.machine import cores
from imagegram.samplers.kernel.model import (
    FAR,
    FIRST_TOKENS,
    LAST_TOKENS,
    MovedVotes,
    context_places,
    digits_of,
    neighbours_of,
)

GROUP = 32  # images that are proposed together
NEAREST = 8  # groups whose votes are made
ATTEMPTS = 64  # to draw an image, before the votes of all are made
ROUNDS = [slice(0, 4), slice(4, 16), slice(16, ATTEMPTS)]  # of them, each for the sequences that the last one left
ROWS = 128  # sequences whose votes a core counts at a time, at most
TILE = 1024  # images, or groups, that it counts at a time: half a MB of votes
GPU_TILE = 1 << 18
ROUNDING = 1e-6  # of a sum of votes: a group is accepted whose votes were made before
LEAST_LOG = -80.0  # of a vote: exp takes 14 times as long where its result is subnormal, from -87 on
PICKS_AT_ONCE = 128  # sequences whose proposals are looked at together


class Library:
    """The indexed images as the votes see them, one token position after another.

    Image g + i * groups is the i-th of group g.
    """

    def __init__(self, tokens: NDArray[np.uint16], model: MovedVotes):
        """tokens: [N, L], of the indexed images."""
        self.model = model
        self.device = model.codes.device
        self.size = len(tokens)
        self.groups = -(-self.size // GROUP)
        self.neighbours = neighbours_of(self.size)
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
        self.factors = torch.zeros((model.rank + 1, self.groups * GROUP), device=self.device)  # of every position
        self.by_image = torch.empty((self.groups * GROUP, model.rank + 1), device=self.device)  # the same, turned

    def prepare(self, position: int) -> Tensor:
        """The images' factor of the distances at a position: [r + 1, N and some that nobody draws]."""
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
        factors = self.factors[: rank + 1]
        factors[:rank, self.size :] = 0  # what an earlier position left where no image is
        factors[rank].fill_(FAR)

        @torch.inference_mode()
        def project(tile: slice) -> None:
            numbers = torch.mm(matrix, self.context[:held, tile], out=factors[:rank, tile])
            torch.sum(numbers.square(), 0, out=factors[rank, tile])
            self.by_image[tile, : rank + 1] = factors[:, tile].T

        self.by_image[self.size :, : rank + 1] = factors[:, self.size :].T
        list(self.pool.map(project, slices(self.size, self.tile)))
        return factors

    def against(self, position: int, queries: Tensor, temperature: float) -> Tensor:
        """The sequences' factor, [n, r + 1]: with `factors` of `prepare`, it gives the log of each vote.

        queries: uint8 [n, >= position * D].
        """
        numbers = torch.zeros((len(queries), 0), device=self.device)
        if position:
            numbers = self.model.project(self.model.embed(queries, position), position)
        return torch.cat([2 * numbers, -torch.ones_like(queries[:, :1], dtype=torch.float32)], 1) / temperature

    def blocks(self, n: int, size: int, run: Callable[[slice, slice], None]) -> None:
        """Call `run` with a block of n sequences and a tile of `size` images or groups, all pairs, on all cores."""
        pairs = itertools.product(slices(size, self.tile), slices(n, self.tile if self.gpu else ROWS))

        @torch.inference_mode()
        def one(pair: tuple[slice, slice]) -> None:
            run(pair[1], pair[0])

        list(self.pool.map(one, pairs))

    @property
    def gpu(self) -> bool:
        return self.device.type != "cpu"

    def best(self, own: Tensor, factors: Tensor) -> Tensor:
        """The log of the greatest vote of each group: [n, groups]."""
        best = torch.empty((len(own), self.groups), device=self.device)

        def look(rows: slice, tile: slice) -> None:
            greatest = own[rows] @ factors[:, tile]
            logs = torch.empty_like(greatest)
            for first in range(self.groups, self.groups * GROUP, self.groups):
                torch.mm(own[rows], factors[:, first + tile.start : first + tile.stop], out=logs)
                torch.maximum(greatest, logs, out=greatest)
            best[rows, tile] = greatest

        self.blocks(len(own), self.groups, look)
        return best

    def nearest(self, own: Tensor, best: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """The logs of the `count` greatest votes [n, count], and the images whose they are: each is in one of the
        `count` groups with the greatest ones."""
        groups = best.topk(min(count, self.groups), 1).indices
        logs = self.logs(own, groups).flatten(1)
        images = groups[..., None] + self.groups * torch.arange(GROUP, device=self.device)
        logs, found = logs.topk(min(count, self.size), 1)
        return logs, images.flatten(1).gather(1, found)

    def logs(self, own: Tensor, groups: Tensor) -> Tensor:
        """The logs of the votes of some groups [n, m] of images: [n, m, GROUP]."""
        members = self.groups * torch.arange(GROUP, device=self.device)
        parts = []
        for rows in slices(len(own), PICKS_AT_ONCE):
            images = self.by_image[(groups[rows, :, None] + members).flatten(1)][..., : own.shape[1]]
            parts.append(torch.bmm(images, own[rows, :, None]).view(*groups[rows].shape, GROUP))
        return torch.cat(parts)

    def draw(self, position: int, queries: Tensor, uniform: Tensor, temperature: float) -> Tensor:
        """One image for each of n sequences, by its vote: int64 [n].

        uniform: float64 [n, ATTEMPTS, 3], in [0, 1).
        """
        if not position:
            return (uniform[:, 0, 0] * self.size).long().clamp(max=self.size - 1)
        factors = self.prepare(position)
        own = self.against(position, queries, temperature)
        best = self.best(own, factors)

        @torch.inference_mode()
        def pick(rows: slice) -> Tensor:
            return self._pick(own[rows], best[rows], uniform[rows], factors)

        return torch.cat(list(self.pool.map(pick, slices(len(own), self.tile if self.gpu else PICKS_AT_ONCE))))

    def _pick(self, own: Tensor, best: Tensor, uniform: Tensor, factors: Tensor) -> Tensor:
        """The images of some sequences, of the greatest votes `best` of each group; overwrites these."""
        nearest = best.topk(min(max(NEAREST, self.neighbours), self.groups), 1).indices
        logs = self.logs(own, nearest)
        most = logs.flatten(1).topk(min(self.neighbours, self.size), 1)[0][:, -1:]

        bounds = votes(best, most) * GROUP
        bounds.scatter_(1, nearest, votes(logs, most[..., None]).sum(2))
        cumulative = bounds.double().cumsum(1)
        images = torch.full((len(own),), -1, device=self.device)
        left: Tensor | slice = slice(None)  # the sequences that have no image yet
        for attempts in ROUNDS:
            if not len(own[left]):
                break
            some = uniform[left, attempts]
            sums = cumulative[left]
            groups = torch.searchsorted(sums, some[..., 0] * sums[:, -1:], right=True).clamp(max=self.groups - 1)
            within = votes(self.logs(own[left], groups), most[left][..., None]).double().cumsum(2)
            accepted = some[..., 1] * bounds[left].gather(1, groups) < within[..., -1] * (1 + ROUNDING)
            first = accepted.int().argmax(1)  # the first attempt that is accepted
            each = torch.arange(len(first), device=self.device)
            within = within[each, first]
            picks = torch.searchsorted(within, some[each, first, 2:] * within[:, -1:], right=True)[:, 0]
            found = groups[each, first] + self.groups * picks.clamp(max=GROUP - 1)
            images[left] = torch.where(accepted.any(1), found, -1)
            left = torch.nonzero(images < 0)[:, 0]

        for row in torch.nonzero(images < 0)[:, 0].tolist():
            cumulative = votes(own[row] @ factors, most[row]).double().cumsum(0)
            images[row] = torch.searchsorted(cumulative, uniform[row, -1, 2] * cumulative[-1], right=True)
        return images.clamp(max=self.size - 1)

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
        own = self.against(position, queries, temperature)
        logs, images = self.nearest(own, self.best(own, factors), self.neighbours + 1)
        if leave_out is not None:
            logs = logs.masked_fill(images == leave_out[:, None], -torch.inf).sort(1, descending=True)[0][:, :-1]
        most = logs[:, : self.neighbours].amin(1, keepdim=True)
        tiles = slices(self.size, self.tile)
        # Of each tile the sum of all votes, and that of what they offer.
        kept = torch.empty((2, n, len(tiles)), dtype=torch.float64, device=self.device)

        def add(rows: slice, tile: slice) -> None:
            weights = votes(own[rows] @ factors[:, tile], most[rows])
            if leave_out is not None:
                mine = torch.nonzero((leave_out[rows] >= tile.start) & (leave_out[rows] < tile.stop))[:, 0]
                weights[mine, leave_out[rows][mine] - tile.start] = 0
            number = tile.start // self.tile
            kept[0, rows, number] = weights.sum(1).double()
            kept[1, rows, number] = (weights * offered(rows, tile)).sum(1).double()

        self.blocks(n, self.size, add)
        return kept[1].sum(1) / kept[0].sum(1)


def votes(logs: Tensor, most: Tensor) -> Tensor:
    """Votes of these logs, where none counts more than the one of the log `most`, which is 1. Overwrites `logs`."""
    return logs.sub_(most).clamp_(LEAST_LOG, 0).exp_()


def slices(length: int, size: int) -> list[slice]:
    """0 to `length`, `size` at a time."""
    return [slice(first, min(first + size, length)) for first in range(0, length, size)]
