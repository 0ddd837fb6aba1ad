"""What the decoder makes of a few sequences: of their first 1, 2, 4, ... tokens, and from several noises."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from imagegram.report.sheets import rows_of_images

SEEDS = 6  # decodes of each whole sequence
APART = 100_000  # between the seeds of these: the images of a run have seeds that follow each other

# Prefixes and a seed for each -> images uint8 [n, 3, S, S].
Decode = Callable[[Sequence[NDArray[np.uint16]], NDArray[np.int64]], Tensor]


def lengths(tokens: int) -> list[int]:
    """1, 2, 4, ... and all of them: where a coarse-to-fine tokenizer shows what it adds."""
    return [*(2**i for i in range((tokens - 1).bit_length())), tokens]


def draw(decode: Decode, tokens: NDArray[np.uint16], seeds: NDArray[np.int64], out: Path) -> None:
    """Decode the sequences [n, L], whose images have `seeds` [n], and write two pictures, a sequence a row:

    prefixes.png, the first 1, 2, 4, ... L tokens from the sequence's own noise, so that the last column is its image;
    seeds.png, all tokens from several noises, its own first: what the tokens leave open.
    """
    steps = lengths(tokens.shape[1])
    prefixes = [(row[:k], seed) for row, seed in zip(tokens, seeds, strict=True) for k in steps]
    again = [(row, seed + APART * i) for row, seed in zip(tokens, seeds, strict=True) for i in range(SEEDS)]
    images = decode([row for row, _ in prefixes + again], np.array([seed for _, seed in prefixes + again]))
    for name, part, columns, titles in (
        ("prefixes", images[: len(prefixes)], len(steps), [f"{k} tokens" if k > 1 else "1 token" for k in steps]),
        ("seeds", images[len(prefixes) :], SEEDS, [f"noise {i}" for i in range(SEEDS)]),
    ):
        rows = [(f"{i}", line) for i, line in enumerate(part.split(columns))]
        rows_of_images(rows, titles).save(out / f"{name}.png")
