"""Decode many token sequences with one codec, in batches."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from imagegram.codec import Codec
from imagegram.tokens import Prefixes

DECODE_BATCH = 64


@dataclass(frozen=True)
class Decoder:
    """The codec with the flow steps and the guidance of a run; its defaults where these are 0."""

    codec: Codec
    timesteps: int = 0
    guidance_scale: float = 0.0

    def __call__(self, tokens: Prefixes, seeds: NDArray[np.int64] | None = None) -> Tensor:
        """Tokens -> images uint8 [n, 3, S, S] in batches, with a progress bar for the long ones;
        `seeds` of noise."""
        seeds = np.arange(len(tokens), dtype=np.int64) if seeds is None else seeds
        timesteps = self.timesteps or self.codec.timesteps
        guidance_scale = self.guidance_scale or self.codec.guidance_scale
        images = []
        with tqdm(total=len(tokens), unit="img", desc="decoding", delay=3) as progress:
            for first in range(0, len(tokens), DECODE_BATCH):
                rows = tokens[first : first + DECODE_BATCH]
                noise = seeds[first : first + DECODE_BATCH].tolist()
                images.append(self.codec.decode(rows, noise, timesteps, guidance_scale))
                progress.update(len(rows))
        return torch.cat(images)
