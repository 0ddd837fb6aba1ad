"""Codecs: images to tokens and back, the embedded miniature or the real FlexTok behind one
interface."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from imagegram.cli import UserError
from imagegram.tokens import Prefixes

if TYPE_CHECKING:
    # Not imported when the program runs: sizes.py needs no torch.
    from torch import Tensor


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
    # errors of its own held-out images (familiarity.py): median, 95 %
    own_error: tuple[float, float] | None

    def encode(self, images: "Tensor") -> NDArray[np.uint16]:
        """Images uint8 [B, 3, S, S] on the CPU -> tokens [B, tokens_per_image]."""
        ...

    def decode(
        self, tokens: Prefixes, seeds: Sequence[int], timesteps: int, guidance_scale: float
    ) -> "Tensor":
        """B prefixes of 1 to tokens_per_image tokens -> uint8 [B, 3, S, S]; each image's noise has
        its own seed."""
        ...


def load_codec(name: str = "tiny", revision: str = "") -> Codec:
    """Load a codec by name: a miniature that is shipped ("tiny", "fashion"), a folder that
    train_tiny_flextok.py wrote, that of a fitted linear codec, a FlexTok of the Hugging Face hub
    (NAME or NAME@REVISION; `revision` where the name has none), or a local folder of one.
    UserError where a package, a file or a connection is missing, with what to install or change.
    """
    from imagegram.codec import miniatures
    from imagegram.codec.sizes import LINEAR, is_linear, linear_folder

    if is_linear(name):
        from imagegram.codec.linear import LinearCodec

        if fitted := linear_folder(name):
            return LinearCodec(fitted, LINEAR)
        raise UserError(
            f"the codec {name} is fitted to a data set by tokenizing, and kept in TOKENS/codec: "
            "name that"
        )
    if folder := miniatures.find(name):
        from imagegram.codec.tiny import TinyCodec

        # A folder's name is its full path, so that an index finds it from anywhere.
        return TinyCodec(folder, name if name in miniatures.shipped() else str(folder.resolve()))

    from imagegram.codec import flextok

    return flextok.load(name, revision)
