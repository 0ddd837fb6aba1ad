"""The votes of all indexed images (drawing.py has the formula), without ever storing one for each
image and sequence.

Distances are counted in whole numbers: the projected numbers of all contexts are rounded to 127
steps of the largest one. So their products are exact, as bytes where a processor multiplies these
(in less than half the time of floats), and whatever is computed together gives the same.

To draw an image by its vote, the votes of all others are not made: images stand in groups of GROUP,
and a pass over all of them finds the nearest of each group. The votes of the NEAREST groups are
made; those of any other are at most as many as that one has, times GROUP. So an image of the
nearest groups is drawn, or another group proposed by this bound, and accepted with the share of it
that its votes reach: rejection keeps the distribution exact. Where all of ATTEMPTS proposals are
rejected, the votes of all images are made after all.
"""

import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor

from imagegram.machine import cores
from imagegram.samplers.kernel.model import (
    FIRST_TOKENS,
    LAST_TOKENS,
    MovedVotes,
    context_places,
    digits_of,
    neighbours_of,
)
from imagegram.samplers.matches import Tokens

STEPS = 127  # to which the projected numbers are rounded, on either side of 0: a byte
NOBODY = 1 << 23  # the squared distance of no image: the largest, which a float knows exactly
GROUP = 32  # images that are proposed together
NEAREST = 16  # groups whose votes are made
ATTEMPTS = 64  # to draw an image, before the votes of all are made
ROUNDS = [slice(0, 1), slice(1, 8), slice(8, ATTEMPTS)]  # each for whom the last one left
ROWS = 512  # sequences whose votes a core counts at a time, at most
TILE = 256  # images, or groups, that it counts at a time: half a MB of votes
PROJECTED_AT_ONCE = 2048  # images
ROWS_AT_ONCE = 64  # sequences whose proposals are looked at together
GPU_TILE = 1 << 18
LEAST_LOG = -80.0  # of a vote: exp takes 14 times as long where it is subnormal, from -87 on
Result = TypeVar("Result")


class Library:
    """The indexed images as the votes see them, one token position after another.

    Image g + i * groups is the i-th of group g.
    """

    def __init__(self, tokens: Tokens, model: MovedVotes, temperature: float = 1.0):
        """tokens: [N, L], of the indexed images; temperature: of the votes."""
        self.model = model
        self.temperature = temperature
        self.device = model.codes.device
        self.gpu = self.device.type != "cpu"
        self.tokens = tokens
        self.size = len(tokens)
        self.groups = -(-self.size // GROUP)
        self.neighbours = neighbours_of(self.size)
        self.digits = digits_of(tokens, model.levels, self.device).T.contiguous()  # uint8 [F, N]
        self.tile = GPU_TILE if self.gpu else TILE
        self.pool = ThreadPoolExecutor(min(torch.get_num_threads(), cores()))

        # Where the digits of earlier tokens lie: the first ones stay, later ones take turns.
        first = FIRST_TOKENS * model.digits
        turns = (LAST_TOKENS + 1) * model.digits
        places = model.tokens * model.digits
        self.rows = [
            place if place < first else first + (place - first) % turns for place in range(places)
        ]
        self.held = [-1] * min(places, first + turns)  # the place that is in a row
        self.context = torch.zeros((len(self.held), self.size), device=self.device)

        self.of_groups = torch.empty((0, self.groups), dtype=torch.int32, device=self.device)
        # The projected numbers of the position that is prepared, and the same in whole numbers.
        self.step = 1.0
        self.projected = torch.zeros((model.rank, self.size), device=self.device)
        places = self.groups * GROUP  # of images, the last of which may be nobody's
        in_bytes = partial(torch.zeros, dtype=torch.int8, device=self.device)
        self.numbers = in_bytes((model.rank, places))
        self.by_group = in_bytes((self.groups, GROUP, model.rank))
        self.squares = torch.full((places,), NOBODY, dtype=torch.int32, device=self.device)

    def prepare(self, position: int) -> None:
        """Project the contexts of all images, for the distances at a position."""
        model = self.model
        context = context_places(position, model.digits)
        for place, codes in zip(context, model.codes[model.code_rows(position)], strict=True):
            row = self.rows[place]
            if self.held[row] != place:
                torch.index_select(codes, 0, self.digits[place].int(), out=self.context[row])
                self.held[row] = place

        # The product takes the rows as they lie, so that none is copied.
        held = max((self.rows[place] for place in context), default=-1) + 1
        projection = model.projection(position)
        rank = len(projection)
        matrix = torch.zeros((rank, held), device=self.device)
        matrix[:, [self.rows[place] for place in context]] = projection
        tiles = slices(self.size, max(self.tile, PROJECTED_AT_ONCE))

        @torch.inference_mode()
        def project(tile: slice) -> float:
            projected = self.projected[:rank, tile]
            return torch.mm(matrix, self.context[:held, tile], out=projected).abs().max().item()

        self.step = max(max(self.pool.map(project, tiles)) / STEPS if rank else 0.0, 1e-30)

        @torch.inference_mode()
        def count(tile: slice) -> None:
            whole = self.projected[:rank, tile].div_(self.step).round_()
            self.numbers[:rank, tile] = whole
            self.squares[tile] = whole.square().sum(0)

        list(self.pool.map(count, tiles))
        grouped = self.numbers[:rank].view(rank, GROUP, self.groups).permute(2, 1, 0)
        self.share(self.tile, torch.Tensor.copy_, self.by_group[..., :rank], grouped)

    def against(self, position: int, queries: Tensor) -> Tensor:
        """The projected numbers of sequences uint8 [n, >= position * D], in whole numbers: int8 [n,
        r]. In doubles, so that none is rounded otherwise where others are with it."""
        context = self.model.embed(queries, position).double()
        numbers = context @ self.model.projection(position).double().T
        return (numbers / self.step).round().clamp(-STEPS, STEPS).to(torch.int8)

    def distances(self, own: Tensor, part: slice, out: Tensor | None = None) -> Tensor:
        """Squared distances to some images, in steps, less what all have in common: [n, part]."""
        numbers = self.numbers[: own.shape[1], part]
        fast = not self.gpu and torch.cpu._is_vnni_supported()
        products = (
            torch._int_mm(own, numbers, out=out) if fast else (own.float() @ numbers.float()).int()
        )
        return torch.sub(self.squares[part], products, alpha=2, out=products)

    def distances_in(self, own: Tensor, groups: Tensor) -> Tensor:
        """The same of all images of some groups [n, m]: [n, m, GROUP]."""
        numbers = self.by_group[groups][..., : own.shape[1]].float()  # [n, m, GROUP, r]
        products = numbers.mul_(own[:, None, None].float()).sum(3).int()
        return torch.sub(self.squares.view(GROUP, self.groups).T[groups], products, alpha=2)

    def votes(self, distances: Tensor, heard: Tensor) -> Tensor:
        """Votes at these distances, where none counts more than the one at `heard`, which is 1."""
        logs = (heard - distances).float().mul_(self.step**2 / self.temperature)
        return logs.clamp_(LEAST_LOG, 0).exp_()

    def digits_of(self, images: Tensor, position: int) -> Tensor:
        """The digits of some images [n] up to a position: uint8 [n, (position + 1) * D]."""
        tokens = self.tokens[images.cpu().numpy(), : position + 1]
        return digits_of(tokens, self.model.levels, self.device)

    def share(self, rows: int, run: Callable[..., Result], *data: Tensor) -> list[Result]:
        """What `run` makes of each `rows` of `data` [n, *], on all cores."""
        size = self.tile if self.gpu else rows
        parts = (each.split(size) for each in data)
        return list(self.pool.map(torch.inference_mode()(run), *parts))

    def blocks(self, n: int, size: int, run: Callable[[slice, slice], None]) -> None:
        """Call `run` with every block of n sequences and tile of `size` images, on all cores."""
        rows = slices(n, self.tile if self.gpu else ROWS)
        tiles, blocks = zip(*itertools.product(slices(size, self.tile), rows), strict=True)
        list(self.pool.map(torch.inference_mode()(run), blocks, tiles))

    def best(self, own: Tensor) -> Tensor:
        """The distance of the nearest image of each group: int32 [n, groups]."""
        if len(self.of_groups) != len(own):  # else that of the last token: its pages are there
            self.of_groups = self.squares.new_empty((len(own), self.groups))
        best = self.of_groups

        def look(rows: slice, tile: slice) -> None:
            some = own[rows]
            nearest = self.distances(some, tile)
            out = torch.empty_like(nearest)
            for first in range(self.groups, self.groups * GROUP, self.groups):
                others = self.distances(some, slice(first + tile.start, first + tile.stop), out)
                torch.minimum(nearest, others, out=nearest)
            best[rows, tile] = nearest

        self.blocks(len(own), self.groups, look)
        return best

    def nearest(self, own: Tensor, best: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """The groups of at least the `count` nearest images [n, m]; all distances [n, m, GROUP]."""
        groups = best.topk(min(max(NEAREST, count), self.groups), 1, largest=False).indices
        return groups, self.distances_in(own, groups)

    def heard(self, distances: Tensor) -> Tensor:
        """How far the last image is that is heard as loud as the nearest, of distances [n, m, *]:
        [n, 1]."""
        count = min(self.neighbours, self.size)
        return distances.flatten(1).topk(count, 1, largest=False)[0][:, -1:]

    def draw(self, position: int, queries: Tensor, uniform: Tensor) -> Tensor:
        """One image for each of n sequences, by its vote: int64 [n].

        uniform: float64 [n, ATTEMPTS, 3], in [0, 1).
        """
        if not position:
            return (uniform[:, 0, 0] * self.size).long().clamp(max=self.size - 1)
        self.prepare(position)
        own = torch.cat(self.share(ROWS, partial(self.against, position), queries))
        return torch.cat(self.share(ROWS_AT_ONCE, self._pick, own, self.best(own), uniform))

    def _pick(self, own: Tensor, best: Tensor, uniform: Tensor) -> Tensor:
        """The images of some sequences, of the distances `best` of each group."""
        nearest, distances = self.nearest(own, best, self.neighbours)
        heard = self.heard(distances)
        near = self.votes(distances.flatten(1), heard).double().cumsum(1)
        far = self.votes(best, heard).mul_(GROUP).scatter_(1, nearest, 0)  # at most
        wanted = uniform[:, 0, :1] * (near[:, -1:] + far.sum(1, keepdim=True, dtype=torch.float64))
        images = self._image_at(wanted, nearest, near)
        left = torch.nonzero(wanted >= near[:, -1:])[:, 0]
        if len(left):
            known = (own, uniform, nearest, near, far, heard)
            images[left] = self._propose(*(each[left] for each in known))
        return images[:, 0].clamp(max=self.size - 1)

    def _propose(
        self,
        own: Tensor,
        uniform: Tensor,
        nearest: Tensor,
        near: Tensor,
        far: Tensor,
        heard: Tensor,
    ) -> Tensor:
        """The images [n, 1] of sequences that are first proposed another group than the `nearest`
        [n, m].

        near [n, m * GROUP]: the sums of the votes in these; far [n, groups]: the most that those of
        any other can be.
        """
        sums = far.double().cumsum(1)
        images = torch.full((len(own), 1), -1, device=self.device)
        left = torch.arange(len(own), device=self.device)  # the sequences that have no image yet
        for attempts in ROUNDS:
            some = uniform[left, attempts]
            wanted = some[..., 0] * (near[left, -1:] + sums[left, -1:])
            beyond = wanted - near[left, -1:]
            groups = torch.searchsorted(sums[left], beyond, right=True).clamp(max=self.groups - 1)
            distances = self.distances_in(own[left], groups)
            within = self.votes(distances, heard[left, None]).double().cumsum(2)
            accepted = (beyond < 0) | (some[..., 1] * far[left].gather(1, groups) < within[..., -1])

            first = accepted.int().argmax(1, keepdim=True)  # the attempt that counts
            inside = torch.take_along_dim(within, first[..., None], 1)[:, 0]
            place = some[..., 2].gather(1, first) * inside[:, -1:]
            found = torch.where(
                beyond.gather(1, first) < 0,
                self._image_at(wanted.gather(1, first), nearest[left], near[left]),
                self._image_at(place, groups.gather(1, first), inside),
            )
            images[left] = torch.where(accepted.any(1, keepdim=True), found, -1)
            left = torch.nonzero(images < 0)[:, 0]
            if not len(left):
                return images

        for row in left.tolist():
            distances = self.distances(own[row : row + 1], slice(0, self.size))
            votes = self.votes(distances, heard[row]).double().cumsum(1)
            wanted = uniform[row, -1:, 2:] * votes[:, -1:]
            images[row] = torch.searchsorted(votes, wanted, right=True)[0]
        return images

    def _image_at(self, place: Tensor, groups: Tensor, sums: Tensor) -> Tensor:
        """The image [n, 1] of groups [n, m] where sums of votes [n, m * GROUP] reach a place."""
        member = torch.searchsorted(sums, place, right=True).clamp(max=sums.shape[1] - 1)
        return groups.gather(1, member // GROUP) + self.groups * (member % GROUP)

    def shares(
        self,
        position: int,
        queries: Tensor,
        offered: Callable[[slice, slice], Tensor],
        *,
        leave_out: Tensor | None = None,
    ) -> Tensor:
        """The mean, weighed by the votes, of what all images offer to n sequences: float64 [n].

        offered: to a block of sequences by a tile of images. leave_out [n]: who must say nothing.
        """
        n = len(queries)
        self.prepare(position)
        own = self.against(position, queries)
        nearest, distances = self.nearest(own, self.best(own), self.neighbours + 1)
        if leave_out is not None:
            images = nearest[..., None] + self.groups * torch.arange(GROUP, device=self.device)
            distances = distances.masked_fill(images == leave_out[:, None, None], NOBODY)
        heard = self.heard(distances)
        tiles = slices(self.size, self.tile)
        # Of each tile the sum of all votes, and that of what they offer.
        kept = torch.empty((2, n, len(tiles)), dtype=torch.float64, device=self.device)

        def add(rows: slice, tile: slice) -> None:
            weights = self.votes(self.distances(own[rows], tile), heard[rows])
            if leave_out is not None:
                own_vote = leave_out[rows] - tile.start
                mine = torch.nonzero((own_vote >= 0) & (own_vote < weights.shape[1]))[:, 0]
                weights[mine, own_vote[mine]] = 0
            number = tile.start // self.tile
            kept[0, rows, number] = weights.sum(1).double()
            kept[1, rows, number] = (weights * offered(rows, tile)).sum(1).double()

        self.blocks(n, self.size, add)
        return kept[1].sum(1) / kept[0].sum(1)


def slices(length: int, size: int) -> list[slice]:
    """0 to `length`, `size` at a time."""
    return [slice(first, min(first + size, length)) for first in range(0, length, size)]
