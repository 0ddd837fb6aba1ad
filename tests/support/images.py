"""Pictures as a codec takes them."""

import torch
from torch import Tensor

from imagegram.data.scenes import scene


def scenes(count: int, seed: int = 0, size: int = 32) -> Tensor:
    """The first of a seed's procedural scenes, uint8 [count, 3, size, size]."""
    pictures = [torch.from_numpy(scene(seed, i, size)[0]) for i in range(count)]
    return torch.stack(pictures).permute(0, 3, 1, 2).contiguous()
