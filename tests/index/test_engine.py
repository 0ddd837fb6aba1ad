"""The door to Fastgram: places, counts and ends of images are those of brute force."""

from pathlib import Path

import numpy as np
import pytest

from imagegram.index.engine import Engine
from tests.support.corpora import corpora, index_of


@pytest.mark.parametrize("shard_images", [0, 4])
@pytest.mark.parametrize("name", corpora())
def test_places_are_those_of_brute_force(tmp_path: Path, name: str, shard_images: int) -> None:
    training = corpora()[name]
    index = index_of(tmp_path, training, 65_279, shard_images)
    engine = Engine(index)
    rng = np.random.default_rng(1)
    for length in (0, 1, 2, training.shape[1]):
        contexts = rng.choice(np.unique(training), (20, length)).astype(np.uint16)
        # they end images
        contexts[:5] = training[rng.integers(0, len(training), 5), training.shape[1] - length :]
        low, high = engine.find(contexts)
        for number, shard in enumerate(index.shards):
            line = shard.tokens.tolist()
            for row, context in enumerate(contexts.tolist()):
                ends = [
                    i + length for i in range(len(line) - length) if line[i : i + length] == context
                ]
                assert high[number, row] - low[number, row] == sum(
                    line[end] < 65_279 for end in ends
                )
