"""The held-out set: real images that the index never saw, which every figure is compared with; read once a run."""

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from imagegram.index.folder import Index

APART = 1_000_000  # between the labels of two data sets: their classes are different ones


@dataclass(frozen=True)
class HeldOut:
    """The held-out images of all data sets of an index: tokens uint16 [M, L]; labels int64 [M], those of two data sets
    APART; origins int64 [M, 2], the number of the data set and the ordinal in it."""

    tokens: NDArray[np.uint16]
    labels: NDArray[np.int64]
    origins: NDArray[np.int64]

    @property
    def content(self) -> str:
        """A hash of the tokens and labels; what is measured with them and kept carries it."""
        return hashlib.sha256(self.tokens.tobytes() + self.labels.astype(np.int64).tobytes()).hexdigest()[:16]


def read_held_out(index: Index) -> HeldOut:
    """Read the held-out images; UserError where the token folders are gone or hold something else."""
    corpora = [folder.load() for folder in index.token_folders()]
    ordinals = [corpus.ordinals[corpus.held_out] for corpus in corpora]
    return HeldOut(
        tokens=np.concatenate([corpus.tokens[corpus.held_out] for corpus in corpora]),
        labels=np.concatenate(
            [number * APART + corpus.labels[corpus.held_out].astype(np.int64) for number, corpus in enumerate(corpora)]
        ),
        origins=np.concatenate(
            [np.stack([np.full(len(part), number), part], 1) for number, part in enumerate(ordinals)]
        ),
    )
