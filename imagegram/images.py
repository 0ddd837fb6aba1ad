"""Data sets and preprocessing."""

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps


def held_out(index: NDArray[np.integer] | int, share: float) -> NDArray[np.bool_]:
    """Whether the images at these ordinals are held out: a hash (SplitMix64) of the ordinal falls below `share`.

    The hash makes the split independent of the size of the data set, of shards and of the order of work.
    """
    with np.errstate(over="ignore"):
        x = np.asarray(index).astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        x = x ^ (x >> np.uint64(31))
    return np.asarray(x / 2.0**64 < share)


def preprocess(image: Image.Image, size: int) -> torch.Tensor:
    """RGB, shorter side resized to `size` (bilinear, antialiased), centre crop: uint8 [3, size, size]."""
    image = ImageOps.exif_transpose(image).convert("RGB")
    scale = size / min(image.size)
    width, height = (max(size, round(side * scale)) for side in image.size)
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = (width - size) // 2, (height - size) // 2
    image = image.crop((left, top, left + size, top + size))
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()
