"""What is known of a codec by its name alone: nothing is loaded, and nothing waits for torch."""

import json
import struct
from dataclasses import dataclass
from pathlib import Path

from imagegram.cli import UserError
from imagegram.codec import miniatures

# Of https://huggingface.co/EPFL-VILAB; the numbers are the depths of encoder and decoder.
ZOO = (
    "EPFL-VILAB/flextok_d18_d28_dfn",
    "EPFL-VILAB/flextok_d18_d28_in1k",
    "EPFL-VILAB/flextok_d18_d18_in1k",
    "EPFL-VILAB/flextok_d12_d12_in1k",
)


@dataclass(frozen=True)
class Sizes:
    """The sizes of a codec; the defaults are those of every released FlexTok."""

    image_size: int = 256  # pixels
    tokens_per_image: int = 256
    levels: tuple[int, ...] = (8, 8, 8, 5, 5, 5)  # of FSQ


def sizes_of(name: str) -> Sizes:
    """The sizes of the codec that `load_codec(name)` would load; UserError where it cannot be one."""
    folder = miniatures.find(name)
    if folder is None:
        if not Path(name).exists():
            check_name(name.partition("@")[0])
        return Sizes()
    # A safetensors file begins with the length of its header, 8 bytes, and the header as JSON.
    with (folder / miniatures.WEIGHTS).open("rb") as file:
        header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
    config = json.loads(header["__metadata__"]["config"])
    return Sizes(config["image_size"], config["tokens"], tuple(config["levels"]))


def check_name(name: str) -> None:
    """UserError where `name`, which is no folder, cannot be that of a model of the Hugging Face hub."""
    if name.startswith((".", "/")) or name.count("/") != 1:
        raise UserError(
            f"unknown codec {name!r}: {', '.join(miniatures.shipped())}, a folder that train_tiny_flextok.py wrote, a "
            f"local FlexTok folder, or one of the hub (OWNER/NAME or OWNER/NAME@REVISION) such as {', '.join(ZOO)}"
        )
