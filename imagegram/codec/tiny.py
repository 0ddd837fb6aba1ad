"""The miniature of tiny_flextok.py behind the codec interface: on the CPU, in float32."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from imagegram.codec.tiny_flextok import WEIGHTS, TinyFlexTok
from imagegram.files import sha256


class TinyCodec:
    """The embedded tokenizer with the weights that are shipped."""

    name = "tiny"
    precision = "float32"
    timesteps = 10
    guidance_scale = 2.5

    def __init__(self) -> None:
        self.model = TinyFlexTok.load()
        self.revision = sha256(WEIGHTS)[:16]
        self.image_size = self.model.config.image_size
        self.tokens_per_image = self.model.config.tokens
        self.vocab_size = self.model.vocab_size
        self.levels = self.model.config.levels

    def encode(self, images: Tensor) -> NDArray[np.uint16]:
        """Images uint8 [B, 3, 32, 32] -> tokens [B, 16]."""
        tokens = self.model.tokenize(images.float() / 127.5 - 1)
        return torch.cat(tokens).numpy().astype(np.uint16)

    def decode(
        self, tokens: Sequence[NDArray[np.uint16]], seeds: Sequence[int], timesteps: int, guidance_scale: float
    ) -> Tensor:
        """B prefixes of 1 to 16 tokens -> uint8 [B, 3, 32, 32]; each image's noise is drawn from its own seed."""
        images = self.model.detokenize(
            [torch.from_numpy(np.asarray(row, np.int64))[None] for row in tokens],
            timesteps=timesteps,
            guidance_scale=guidance_scale,
            generator=[torch.Generator().manual_seed(seed) for seed in seeds],
        )
        return ((images.clamp(-1, 1) + 1) * 127.5).round().byte()
