"""The training images whose prefix is nearest in code space, for many sequences at once: what the soft sampler asks.

A squared distance is a sum over tokens and never shrinks, so not every distance has to be known at every position.
All of them are brought up to date once in a while: a matrix product over several tokens at a time, since
|x - y|^2 = |x|^2 - 2 x.y + |y|^2. Up to the next time only the few images that were nearest then are followed; as long
as k of them are no farther than all others were, they are the k nearest of all.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from imagegram.cli import UserError
from imagegram.index.folder import Index
from imagegram.machine import cores
from imagegram.sampling.codes import fsq_codes
from imagegram.sampling.matches import ImageMatches, Matches
from imagegram.sampling.settings import Settings

TILE = 2048  # images handled at a time, times
SEQUENCES = 64  # of these
FOLLOWED = 2048  # images that are followed for every sequence, or a hundredth of all
LONGEST = 16  # positions between two updates of all distances, at most
MAX_PAIRS = 1 << 26  # distances held at a time, 256 MB
JITTER = 1e-3  # smaller than any difference between two codes: decides between equal prefixes, and nothing else


class PrefixDistances:
    """Squared distances in code space of the prefixes of n sequences to those of `training` [N, L], uint16.

    With `rng`, ties between equal prefixes are broken at random, anew for each sequence.
    """

    def __init__(
        self,
        training: NDArray[np.uint16],
        levels: tuple[int, ...],
        vocab_size: int,
        n: int,
        rng: np.random.Generator | None = None,
    ):
        self.training = training
        self.libraries = ThreadpoolController()
        codes = fsq_codes(np.arange(vocab_size), levels)
        norms = np.square(codes).sum(1, keepdims=True)
        ones = np.ones((vocab_size, 1), np.float32)
        self.query_vectors = np.concatenate([-2 * codes, norms, ones], 1)  # of a sequence; its product with
        self.image_vectors = np.concatenate([codes, ones, norms], 1)  # that of an image is their squared distance
        shape = n, len(training)
        self.distances = rng.random(shape, np.float32) * np.float32(JITTER) if rng else np.zeros(shape, np.float32)
        self.position = 0  # the next one
        self.pending: list[tuple[int, NDArray[np.uint16], np.float32]] = []  # added since all were up to date
        self.candidates: list[tuple[NDArray[np.int64], NDArray[np.uint16], NDArray[np.float32]]] = []
        self.unfollowed_at_least = np.empty(
            n, np.float32
        )  # [n]: lower bound on the distance of every image outside `candidates`

    def add(self, position: int, tokens: NDArray[np.uint16], weight: float = 1.0) -> None:
        """Add `weight` times the distance of `tokens` [n] to the images' tokens at `position`, the next one."""
        if len(self.pending) == LONGEST:
            self._update()
        for (_, upcoming, distances), left in zip(
            self.candidates, self.query_vectors[tokens] * np.float32(weight), strict=False
        ):
            distances += self.image_vectors.take(upcoming[:, len(self.pending)], 0) @ left
        self.pending.append((position, tokens.copy(), np.float32(weight)))
        self.position = position + 1

    def _update(self) -> None:
        """Bring all distances up to date."""
        self.candidates = []
        if not self.pending:
            return
        columns = [np.ascontiguousarray(self.training[:, position]) for position, _, _ in self.pending]
        left = np.concatenate([self.query_vectors[tokens] * weight for _, tokens, weight in self.pending], 1)

        def work(first: int) -> None:
            tile = slice(first, first + TILE)
            right = np.concatenate([self.image_vectors.take(column[tile], 0) for column in columns], 1).T
            for start in range(0, len(left), SEQUENCES):
                part = slice(start, start + SEQUENCES)
                self.distances[part, tile] += left[part] @ right

        # The products are small: threads of the library's own would only wait for each other.
        with self.libraries.limit(limits=1, user_api="blas"), ThreadPoolExecutor(cores()) as pool:
            list(pool.map(work, range(0, len(self.training), TILE)))
        self.pending = []

    def _follow(self, k: int) -> None:
        """Choose the images to follow from here on."""
        n = max(2 * k, FOLLOWED, len(self.training) // 100)
        step = max(1, len(self.training) // 4096)  # a sample tells how far the n nearest are
        for row, distances in enumerate(self.distances):
            sample = distances[::step]
            furthest = np.partition(sample, n // step)[n // step] if n // step < len(sample) else np.inf
            images = np.flatnonzero(distances <= furthest)
            if len(images) < k:
                images = np.arange(len(distances))
                furthest = np.inf
            self.unfollowed_at_least[row] = furthest
            upcoming = self.training[images, self.position : self.position + LONGEST]
            self.candidates.append((images, upcoming, distances[images]))

    def nearest(self, k: int) -> NDArray[np.int64]:
        """The `k` nearest images of every sequence, in no order: int64 [n, k]; k is less than N."""
        if self.candidates:
            found, furthest = self._nearest_followed(k)
            if (furthest <= self.unfollowed_at_least).all():
                return found
        self._update()
        self._follow(k)
        return self._nearest_followed(k)[0]

    def _nearest_followed(self, k: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The nearest images that are followed [n, k], and the distance [n] of the furthest of them."""
        found = np.empty((len(self.distances), k), np.int64)
        furthest = np.full(len(self.distances), np.inf, np.float32)
        for row, (images, _, distances) in enumerate(self.candidates):
            if len(images) >= k:
                best = np.argpartition(distances, k - 1)[:k]
                found[row] = images[best]
                furthest[row] = distances[best[-1]]
        return found, furthest


def soft_matches(
    index: Index, settings: Settings, drawn: NDArray[np.uint16], rng: np.random.Generator
) -> Iterator[Matches]:
    """Matches whose prefix is near in code space, for every position of `drawn` [n, L]."""
    if not index.levels:
        raise UserError(f"the codec {index.codec!r} has no FSQ levels: the soft sampler needs their codes")
    (n, length) = drawn.shape
    everyone = np.arange(index.num_images)
    distances = PrefixDistances(index.tokens, index.levels, index.vocab_size, n, rng)
    for position in range(length):
        if position:
            distances.add(position - 1, drawn[:, position - 1], position**-settings.emphasis)
        if position == 0 or settings.neighbours >= index.num_images:
            yield ImageMatches(index.tokens, np.broadcast_to(everyone, (n, len(everyone))), position, everyone=True)
        else:
            yield ImageMatches(index.tokens, distances.nearest(settings.neighbours), position)
