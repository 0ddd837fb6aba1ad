"""A miniature of tiny_flextok.py behind the codec interface: on the CPU, in float32, and bfloat16
where it has that."""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from imagegram.codec import miniatures
from imagegram.codec.tiny_flextok import TinyFlexTok
from imagegram.data.preprocess import to_bytes, to_signed
from imagegram.files import read_json
from imagegram.machine import has_bfloat16, single_threads

# Images whose activations fit in a core's cache.
ENCODED_AT_ONCE = 32
DECODED_AT_ONCE = 8


class TinyCodec:
    """The embedded tokenizer with the weights of a folder, known by their contents."""

    precision = "float32"  # of the tokens
    timesteps = 10
    guidance_scale = 2.5

    def __init__(self, folder: Path, name: str) -> None:
        weights = folder / miniatures.WEIGHTS
        card = folder / miniatures.CARD
        self.name = name
        self.model = TinyFlexTok.load(weights)
        self.revision = miniatures.revision(folder)
        self.own_error = miniatures.own_error(read_json(card)) if card.exists() else None
        self.image_size = self.model.config.image_size
        self.tokens_per_image = self.model.config.tokens
        self.vocab_size = self.model.vocab_size
        self.levels = self.model.config.levels

    def encode(self, images: Tensor) -> NDArray[np.uint16]:
        """Images uint8 [B, 3, S, S] -> tokens [B, 16]."""

        def encode_few(few: Tensor) -> Tensor:
            return torch.cat(self.model.tokenize(to_signed(few)))

        return (
            torch.cat(_in_threads(encode_few, images.split(ENCODED_AT_ONCE)))
            .numpy()
            .astype(np.uint16)
        )

    def decode(
        self,
        tokens: Sequence[NDArray[np.uint16]],
        seeds: Sequence[int],
        timesteps: int,
        guidance_scale: float,
    ) -> Tensor:
        """B prefixes of 1 to 16 tokens -> uint8 [B, 3, S, S]; each image's noise is drawn from its
        own seed."""

        def decode_few(start: int) -> Tensor:
            few = slice(start, start + DECODED_AT_ONCE)
            return self._decode_few(list(tokens[few]), list(seeds[few]), timesteps, guidance_scale)

        return torch.cat(_in_threads(decode_few, range(0, len(tokens), DECODED_AT_ONCE)))

    def _decode_few(
        self,
        tokens: list[NDArray[np.uint16]],
        seeds: list[int],
        timesteps: int,
        guidance_scale: float,
    ) -> Tensor:
        """At most DECODED_AT_ONCE. Fewer are filled up with copies, so that the shape is always the
        same one, and an image the same to the byte whatever it is decoded with."""
        missing = DECODED_AT_ONCE - len(tokens)
        rows = [
            torch.from_numpy(np.asarray(row, np.int64))[None]
            for row in tokens + tokens[-1:] * missing
        ]
        noise = [torch.Generator().manual_seed(seed) for seed in seeds + seeds[-1:] * missing]
        # In bfloat16 pictures differ by half a grey level of 255 on average. Tokens are made in
        # float32: rounding may turn one into its neighbour.
        with torch.autocast("cpu", torch.bfloat16, enabled=has_bfloat16()):
            images = self.model.detokenize(rows, timesteps, guidance_scale, noise)[: len(tokens)]
        return to_bytes(images)


def _in_threads(work: Callable[[Any], Tensor], parts: Iterable[Any]) -> list[Tensor]:
    """The results of `work` on all parts. Each core does some by itself: operations that cores
    share make them wait for each other, and where other processes want them too, for long."""
    with single_threads() as threads:
        pool = ThreadPoolExecutor(threads)
        try:
            return list(pool.map(work, parts))
        finally:
            pool.shutdown(wait=False, cancel_futures=True)  # stopped: the rest is not begun
