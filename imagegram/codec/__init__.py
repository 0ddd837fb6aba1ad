"""Codecs: images to tokens and back, the embedded miniature or the real FlexTok behind one interface."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from imagegram.codec.tiny_flextok import WEIGHTS, TinyFlexTok
from imagegram.files import sha256


class Codec(Protocol):
    """What the scripts ask of a tokenizer."""

    name: str
    revision: str  # of the weights
    image_size: int  # pixels
    tokens_per_image: int
    vocab_size: int
    levels: tuple[int, ...]  # FSQ levels
    precision: str  # of tokenizing
    timesteps: int  # default flow steps of a decode
    guidance_scale: float  # default guidance of a decode

    def encode(self, images: Tensor) -> NDArray[np.uint16]:
        """Images uint8 [B, 3, S, S] on the CPU -> tokens [B, tokens_per_image]."""
        ...

    def decode(
        self, tokens: Sequence[NDArray[np.uint16]], seeds: Sequence[int], timesteps: int, guidance_scale: float
    ) -> Tensor:
        """B prefixes of 1 to tokens_per_image tokens -> uint8 [B, 3, S, S]; each image's noise has its own seed."""
        ...


def load_codec(name: str = "tiny", revision: str = "") -> Codec:
    """Load a codec by name: "tiny", a FlexTok of the Hugging Face hub (NAME or NAME@REVISION), or a local folder.

    `revision` is that of a hub's model whose name has none. UserError where a package, a file or a connection is
    missing, with what to install or change.
    """
    if name == "tiny":
        return TinyCodec()
    from imagegram.codec import flextok as flextok_codec

    return flextok_codec.load(name, revision)


class TinyCodec:
    """The miniature of tiny_flextok.py on the CPU, in float32."""

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
        tokens = torch.cat(self.model.tokenize(images.float() / 127.5 - 1))
        return tokens.numpy().astype(np.uint16)

    def decode(
        self, tokens: Sequence[NDArray[np.uint16]], seeds: Sequence[int], timesteps: int, guidance_scale: float
    ) -> Tensor:
        images = self.model.detokenize(
            [torch.from_numpy(np.asarray(t, np.int64))[None] for t in tokens],
            timesteps=timesteps,
            guidance_scale=guidance_scale,
            generator=[torch.Generator().manual_seed(seed) for seed in seeds],
        )
        return ((images.clamp(-1, 1) + 1) * 127.5).round().byte()
