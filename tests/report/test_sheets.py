"""Prefixes and noises of a few sequences: what is decoded, and where it stands in the pictures."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from imagegram.report.sheets import CELL, GAP, SEEDS, prefix_lengths, strips


def test_lengths_double_up_to_all() -> None:
    assert prefix_lengths(256) == [1, 2, 4, 8, 16, 32, 64, 128, 256]
    assert prefix_lengths(16) == [1, 2, 4, 8, 16]
    assert prefix_lengths(12) == [1, 2, 4, 8, 12]
    assert prefix_lengths(1) == [1]


def test_every_sequence_has_its_prefixes_and_its_noises() -> None:
    tokens = np.arange(20, dtype=np.uint16).reshape(2, 10)
    asked: list[tuple[list[int], int]] = []

    def decode(prefixes: Sequence[NDArray[np.uint16]], seeds: NDArray[np.int64]) -> torch.Tensor:
        """An image with the number of tokens in red, the first token in green, the seed in blue."""
        asked.extend(zip((p.tolist() for p in prefixes), seeds.tolist(), strict=True))
        colours = [[len(p), int(p[0]), int(s) % 251] for p, s in zip(prefixes, seeds, strict=True)]
        return torch.tensor(colours, dtype=torch.uint8)[:, :, None, None].expand(-1, -1, 32, 32)

    drawn = strips(decode, tokens, np.array([7, 8]))
    expected = [(tokens[r, :k].tolist(), 7 + r) for r in (0, 1) for k in (1, 2, 4, 8, 10)]
    assert asked[:10] == expected
    assert [row for row, _ in asked[10:]] == [tokens[0].tolist()] * SEEDS + [tokens[1].tolist()] * SEEDS
    assert len({seed for _, seed in asked[10:]}) == 2 * SEEDS  # all noises differ
    assert (asked[10][1], asked[10 + SEEDS][1]) == (7, 8)  # the first is the sequence's own

    for name, columns in (("prefixes", 5), ("seeds", SEEDS)):
        sheet = drawn[name]
        margin = sheet.width - columns * (CELL + GAP)
        head = sheet.height - 2 * (CELL + GAP)
        for r in (0, 1):
            for c in range(columns):
                pixel = sheet.getpixel((margin + c * (CELL + GAP) + CELL // 2, head + r * (CELL + GAP) + CELL // 2))
                k = (1, 2, 4, 8, 10)[c] if name == "prefixes" else 10
                assert isinstance(pixel, tuple)
                assert pixel[:2] == (k, 10 * r), (name, r, c)
