"""The training images whose prefix is nearest in code space, for many sequences at once: what the soft sampler asks.

A distance is kept for every pair of a sequence and an image and grows by one token a position: one small matrix
product, since |x - y|^2 = |x|^2 - 2 x.y + |y|^2. The codes are small multiples of powers of two, so that the sums are
exact in float32. The nearest images are then looked for in few of the blocks of images: the k blocks of which the
smallest distance is smallest hold the k smallest distances of all. Everything happens a tile at a time, while it is
in the cache, on all cores.
"""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from imagegram.common import cores

BLOCK = 256  # images whose smallest distance is known
TILE = 8  # blocks handled at a time: 2,048 images x 32 sequences are 256 KB, which a core's cache holds
SEQUENCES = 32  # of a tile
MAX_PAIRS = 1 << 26  # distances held at a time, 256 MB
JITTER = 1e-3  # smaller than any difference between two codes: decides between equal prefixes, and nothing else


def fsq_codes(tokens: NDArray[np.integer], levels: tuple[int, ...]) -> NDArray[np.float32]:
    """Token ids [...] -> FSQ codes [..., D] in [-1, 1]: mixed-radix digits, the first dimension fastest."""
    basis = np.cumprod([1, *levels[:-1]])
    digits = np.asarray(tokens)[..., None] // basis % levels
    return ((digits - np.array(levels) // 2) / (np.array(levels) // 2)).astype(np.float32)


class PrefixDistances:
    """Squared distances in code space of the prefixes of n sequences to those of `training` [N, L], uint16."""

    def __init__(self, training: NDArray[np.uint16], levels: tuple[int, ...], vocab_size: int, n: int):
        self.training, self.n, self.libraries = training, n, ThreadpoolController()
        codes = fsq_codes(np.arange(vocab_size), levels)
        norms, ones = np.square(codes).sum(1, keepdims=True), np.ones((vocab_size, 1), np.float32)
        self.left = np.concatenate([-2 * codes, norms, ones], 1)  # of a sequence; its product with
        self.right = np.concatenate([codes, ones, norms], 1)  # that of an image is their squared distance
        self.tiles = -(-len(training) // (BLOCK * TILE))
        # [tile, sequence, image of the tile]; what is past the last image stays infinitely far.
        self.distances = np.full((self.tiles, n, BLOCK * TILE), np.inf, np.float32)
        self.smallest = np.empty((n, self.tiles, TILE), np.float32)  # of every block

    def start(self, rng: np.random.Generator | None = None) -> None:
        """Before the first token all images are equally near. With `rng`, ties are broken at random, anew for each
        sequence."""
        for tile in range(self.tiles):
            width = min(BLOCK * TILE, len(self.training) - tile * BLOCK * TILE)
            jitter = rng.random((self.n, width), np.float32) * np.float32(JITTER) if rng else 0
            self.distances[tile, :, :width] = jitter

    def add(self, position: int, tokens: NDArray[np.uint16], weight: float = 1.0) -> None:
        """Add `weight` times the distance of `tokens` [n] to the images' tokens at `position`."""
        column = np.ascontiguousarray(self.training[:, position])
        right = self.right * np.float32(weight)
        mine = self.left[tokens]

        def work(tile: int) -> None:
            images = right[column[tile * BLOCK * TILE : (tile + 1) * BLOCK * TILE]].T
            for first in range(0, self.n, SEQUENCES):
                part = slice(first, first + SEQUENCES)
                distances = self.distances[tile, part, : images.shape[1]]
                distances += mine[part] @ images
                whole = self.distances[tile, part]
                self.smallest[part, tile] = whole.reshape(len(whole), TILE, BLOCK).min(2)

        # The products are small: threads of the library's own would only wait for each other.
        with self.libraries.limit(limits=1, user_api="blas"), ThreadPoolExecutor(cores()) as pool:
            list(pool.map(work, range(self.tiles)))

    def nearest(self, k: int) -> NDArray[np.int64]:
        """The `k` nearest images of every sequence, in no order: int64 [n, k]; k is less than N."""
        few = min(k, self.tiles * TILE)
        smallest = self.smallest.reshape(self.n, -1)
        result = np.empty((self.n, k), np.int64)
        for row in range(self.n):
            blocks = np.argpartition(smallest[row], few - 1)[:few] if few < smallest.shape[1] else np.arange(few)
            tile, within = np.divmod(blocks, TILE)
            candidates = self.distances.reshape(self.tiles, self.n, TILE, BLOCK)[tile, row, within].ravel()
            best = np.argpartition(candidates, k - 1)[:k]
            result[row] = blocks[best // BLOCK] * BLOCK + best % BLOCK
        return result
