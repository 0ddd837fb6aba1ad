"""Prefixes and noises of a few sequences: what is decoded, and where it stands in the pictures."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from imagegram.report.sheets import CELL, GAP, SEEDS, noises, prefixes


def test_every_sequence_has_its_prefixes_and_its_noises() -> None:
    tokens = np.arange(20, dtype=np.uint16).reshape(2, 10)
    seeds = np.array([7, 8])
    asked: list[tuple[list[int], int]] = []

    def decode(rows: Sequence[NDArray[np.uint16]], seeds: NDArray[np.int64]) -> torch.Tensor:
        """An image with the number of tokens in red, the first token in green, the seed in blue."""
        new = list(zip((row.tolist() for row in rows), seeds.tolist(), strict=True))
        asked.extend(new)
        colours = torch.tensor([[len(row), row[0], seed % 251] for row, seed in new])
        return colours.byte()[:, :, None, None].expand(-1, -1, 32, 32)

    images = decode(list(tokens), seeds)
    asked.clear()
    drawn = prefixes(decode, tokens, seeds, images)
    assert asked == [(tokens[r, :k].tolist(), 7 + r) for r in (0, 1) for k in (1, 2, 4, 8)]
    asked.clear()
    drawn |= noises(decode, tokens, seeds, images)
    assert [row for row, _ in asked] == np.repeat(tokens, SEEDS - 1, 0).tolist()
    assert len({7, 8} | {seed for _, seed in asked}) == 2 * SEEDS  # all noises differ

    for name, columns in (("prefixes", 5), ("seeds", SEEDS)):
        sheet, step = np.array(drawn[name]), CELL + GAP
        # the middle of every cell: those to the right of the labels, below the titles
        middles = sheet[-2 * step + CELL // 2 :: step, -columns * step + CELL // 2 :: step]
        for r, c in np.ndindex(2, columns):
            k = (1, 2, 4, 8, 10)[c] if name == "prefixes" else 10
            assert middles[r, c, :2].tolist() == [k, 10 * r], (name, r, c)
            if name == "prefixes":
                assert drawn[f"prefix_{r:04d}_{k:04d}"].getpixel((0, 0)) == (k, 10 * r, 7 + r)


def test_a_sequence_of_one_token_has_no_shorter_prefix() -> None:
    image = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    drawn = prefixes(lambda rows, seeds: image, np.zeros((1, 1), np.uint16), np.array([0]), image)
    assert set(drawn) == {"prefixes", "prefix_0000_0001"}
