"""The held-out set: real images that the index never saw, which every figure is compared with; read
once a run."""

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from imagegram.index.folder import Index, class_numbers


@dataclass(frozen=True)
class HeldOut:
    """The held-out images of all data sets of an index: tokens uint16 [M, L]; labels int64 [M], of
    its own data set, -1: none; origins int64 [M, 2], the number of the data set and the ordinal in
    it."""

    tokens: NDArray[np.uint16]
    labels: NDArray[np.int64]
    origins: NDArray[np.int64]

    @property
    def content(self) -> str:
        """A hash of the tokens and classes; what is measured with them and kept carries it."""
        return hashlib.sha256(self.tokens.tobytes() + self.classes.tobytes()).hexdigest()[:16]

    @property
    def classes(self) -> NDArray[np.int64]:
        """A number for every pair of data set and class, int64 [M]."""
        return class_numbers(self.origins[:, 0], self.labels)


def read_held_out(index: Index) -> HeldOut:
    """Read the held-out images; UserError where the token folders are gone or hold something
    else."""
    corpora = [folder.load() for folder in index.token_folders()]
    ordinals = [corpus.ordinals[corpus.held_out] for corpus in corpora]
    return HeldOut(
        tokens=np.concatenate([corpus.tokens[corpus.held_out] for corpus in corpora]),
        labels=np.concatenate(
            [corpus.labels[corpus.held_out].astype(np.int64) for corpus in corpora]
        ),
        origins=np.concatenate(
            [
                np.stack([np.full(len(part), number), part], 1)
                for number, part in enumerate(ordinals)
            ]
        ),
    )
