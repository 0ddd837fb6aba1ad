"""The held-out set: real images that the index never saw, which every figure is compared with."""

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from imagegram.index.folder import Index, class_numbers


@dataclass(frozen=True)
class HeldOut:
    """The held-out images of all data sets of an index."""

    tokens: NDArray[np.uint16]  # [M, L]
    labels: NDArray[np.int64]  # [M], in its own data set; -1: none
    origins: NDArray[np.int64]  # [M, 2]: the number of the data set, and the ordinal in it

    @property
    def content(self) -> str:
        """A hash of the tokens and classes; what is measured with them and kept carries it."""
        return hashlib.sha256(self.tokens.tobytes() + self.classes.tobytes()).hexdigest()[:16]

    @property
    def classes(self) -> NDArray[np.int64]:
        """A number for every pair of data set and class, int64 [M]."""
        return class_numbers(self.origins[:, 0], self.labels)


def read_held_out(index: Index) -> HeldOut:
    """Read the held-out images; UserError where the token folders are gone or have changed."""
    parts = []
    for number, folder in enumerate(index.token_folders()):
        corpus = folder.load()
        rows = corpus.held_out
        origins = np.stack([np.full(rows.sum(), number), corpus.ordinals[rows]], 1)
        parts.append((corpus.tokens[rows], corpus.labels[rows].astype(np.int64), origins))
    return HeldOut(*map(np.concatenate, zip(*parts, strict=True)))
