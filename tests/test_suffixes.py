"""Runs found in the suffix tables are those that brute force finds."""

from pathlib import Path

import numpy as np
import pytest

from imagegram.suffixes import longest_runs
from tests.corpora import corpora, index_of


@pytest.mark.parametrize("shard_images", [0, 5])
@pytest.mark.parametrize("name", corpora())
def test_longest_runs_agree_with_brute_force(tmp_path: Path, name: str, shard_images: int) -> None:
    training = corpora()[name]
    rng, length = np.random.default_rng(1), training.shape[1]
    sequences = rng.choice(np.unique(training), (12, length)).astype(np.uint16)
    sequences[:4] = np.roll(training[rng.integers(0, len(training), 4)], -1, 1)
    if length > 2:
        sequences[4:8, :2] = training[rng.integers(0, len(training), 4), -2:]
    index = index_of(tmp_path, training, 65_279, shard_images)
    known = {tuple(row[i:j]) for row in training.tolist() for i in range(length) for j in range(i + 1, length + 1)}
    expected = [
        [max((j - i for j in range(i + 1, length + 1) if tuple(row[i:j]) in known), default=0) for i in range(length)]
        for row in sequences.tolist()
    ]
    assert longest_runs(index, sequences).tolist() == expected
