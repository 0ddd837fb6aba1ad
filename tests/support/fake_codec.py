"""A codec for tests of everything around a codec."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from imagegram.tokens import Prefixes

SMALL_JOB: dict[str, Any] = {"dataset": "shapes", "images": 200}
SMALL_JOB |= {"shard_size": 10, "batch_size": 5, "workers": 0}


class FakeCodec:
    """Four tokens an image: sums of its quarters; decodes to the colour of the seed. `changes`:
    attributes that are others. Counts the `calls` of `encode`."""

    name, revision, precision = "fake", "1", "int"
    image_size, tokens_per_image, vocab_size = 32, 4, 500
    levels: tuple[int, ...] = ()
    timesteps, guidance_scale = 1, 1.0
    own_error: tuple[float, float] | None = None

    def __init__(self, **changes: Any) -> None:
        self.calls = 0
        vars(self).update(changes)

    def encode(self, images: Tensor) -> NDArray[np.uint16]:
        self.calls += 1
        sums = images.long().flatten(1).unflatten(1, (4, -1)).sum(2)
        return (sums % self.vocab_size).numpy().astype(np.uint16)

    def decode(
        self, tokens: Prefixes, seeds: Sequence[int], timesteps: int, guidance_scale: float
    ) -> Tensor:
        assert len(tokens) == len(seeds)
        return torch.tensor(list(seeds)).reshape(-1, 1, 1, 1).expand(-1, 3, 32, 32).to(torch.uint8)
