"""The nearest prefixes in code space are those that brute force finds, over many blocks and tiles of images."""

import numpy as np
import pytest

from imagegram.sampling.codes import fsq_codes
from imagegram.sampling.soft import FOLLOWED, JITTER, TILE, PrefixDistances

LEVELS = (8, 8, 8, 5, 5, 5)


@pytest.mark.parametrize("images", [5, TILE, 2 * FOLLOWED + 700, 40_000])
@pytest.mark.parametrize("power", [0.0, 0.7])
def test_nearest_agrees_with_brute_force(images: int, power: float) -> None:
    rng = np.random.default_rng(images)
    training, mine = (rng.integers(0, 64_000, (n, 9)).astype(np.uint16) for n in (images, 70))
    training[: images // 2] = training[images - images // 2 :]  # ties
    distances = PrefixDistances(training, LEVELS, 64_000, len(mine), rng)
    expected = np.zeros((len(mine), images))
    for position in range(9):
        weight = (position + 1) ** -power
        distances.add(position, mine[:, position], weight)
        difference = fsq_codes(mine[:, None, position], LEVELS) - fsq_codes(training[None, :, position], LEVELS)
        expected += weight * np.square(difference.astype(np.float64)).sum(2)
        for k in (1, 4, 100):
            if k < images:
                found = distances.nearest(k)
                assert all(len(set(row)) == k for row in found.tolist())
                furthest = np.take_along_axis(expected, found, 1).max(1)
                assert (furthest <= np.partition(expected, k - 1, 1)[:, k - 1] + 1.1 * JITTER).all()


def test_ties_are_broken_at_random() -> None:
    training = np.zeros((3000, 2), np.uint16)
    distances = PrefixDistances(training, LEVELS, 64_000, 500, np.random.default_rng(0))
    distances.add(0, np.zeros(500, np.uint16))
    found = distances.nearest(2)
    assert len(np.unique(found)) > 700
    assert abs(found.mean() - 1500) < 100
