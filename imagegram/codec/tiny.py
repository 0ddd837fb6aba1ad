"""A miniature of tiny_flextok.py behind the codec interface: on the CPU, in float32, and bfloat16
where it has that."""

import math
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
from imagegram.tokens import Prefixes

# Images whose activations fit in a core's cache.
ENCODED_AT_ONCE = 32
DECODED_AT_ONCE = 8


class TinyCodec:
    """The embedded tokenizer with the weights of a folder, known by their contents."""

    precision = "float32"  # of the tokens
    timesteps = 10
    guidance_scale = 2.5

    def __init__(self, folder: Path, name: str) -> None:
        card = folder / miniatures.CARD
        self.name = name
        self.model = TinyFlexTok.load(folder / miniatures.WEIGHTS)
        self.revision = miniatures.revision(folder)
        self.own_error = miniatures.own_error(read_json(card)) if card.exists() else None
        self.image_size = self.model.config.image_size
        self.tokens_per_image = self.model.config.tokens
        self.levels = self.model.config.levels
        self.vocab_size = math.prod(self.levels)

    def encode(self, images: Tensor) -> NDArray[np.uint16]:
        def encode_few(few: Tensor) -> Tensor:
            return torch.cat(self.model.tokenize(to_signed(few)))

        tokens = _in_threads(encode_few, images.split(ENCODED_AT_ONCE))
        return tokens.numpy().astype(np.uint16)

    def decode(
        self, tokens: Prefixes, seeds: Sequence[int], timesteps: int, guidance_scale: float
    ) -> Tensor:
        last = len(tokens) - 1

        def decode_few(start: int) -> Tensor:
            # Fewer are filled up with copies of the last, so that the shape is always the same one,
            # and an image the same to the byte whatever it is decoded with.
            few = [min(i, last) for i in range(start, start + DECODED_AT_ONCE)]
            rows = [torch.from_numpy(np.asarray(tokens[i], np.int64))[None] for i in few]
            noise = [torch.Generator().manual_seed(seeds[i]) for i in few]
            # In bfloat16 pictures differ by half a grey level of 255 on average. Tokens are made in
            # float32: rounding may turn one into its neighbour.
            with torch.autocast("cpu", torch.bfloat16, enabled=has_bfloat16()):
                images = self.model.detokenize(rows, timesteps, guidance_scale, noise)
            return to_bytes(images[: len(tokens) - start])

        return _in_threads(decode_few, range(0, len(tokens), DECODED_AT_ONCE))


def _in_threads(work: Callable[[Any], Tensor], parts: Iterable[Any]) -> Tensor:
    """The results of `work` on all parts, joined. Each core does some by itself: operations that
    cores share make them wait for each other, and where other processes want them too, for long."""
    with single_threads() as threads:
        pool = ThreadPoolExecutor(threads)
        try:
            return torch.cat(list(pool.map(work, parts)))
        finally:
            pool.shutdown(wait=False, cancel_futures=True)  # stopped: the rest is not begun
