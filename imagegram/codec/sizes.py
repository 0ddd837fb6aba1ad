"""What is known of a codec by its name alone: nothing is loaded, and nothing waits for torch."""

import json
import math
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imagegram.cli import UserError
from imagegram.codec import miniatures
from imagegram.files import read_json

# Of https://huggingface.co/EPFL-VILAB; the numbers are the depths of encoder and decoder.
ZOO = (
    "EPFL-VILAB/flextok_d18_d28_dfn",
    "EPFL-VILAB/flextok_d18_d28_in1k",
    "EPFL-VILAB/flextok_d18_d18_in1k",
    "EPFL-VILAB/flextok_d12_d12_in1k",
)
LINEAR = "linear"  # the codec that is fitted to each data set, see linear.py
MOST_IDS = 65_000  # of a token


@dataclass(frozen=True)
class Sizes:
    """The sizes of a codec; the defaults are those of every released FlexTok."""

    image_size: int = 256  # pixels
    tokens_per_image: int = 256
    levels: tuple[int, ...] = (8, 8, 8, 5, 5, 5)  # of FSQ


def chosen(name: str, data_sets: Iterable[str]) -> str:
    """The codec; where none is named, the linear one for emoji, which no shipped miniature knows.

    >>> chosen("", ["emoji"]), chosen("", ["digits", "emoji"]), chosen("fashion", ["emoji"])
    ('linear', 'tiny', 'fashion')
    """
    return name or (LINEAR if set(data_sets) == {"emoji"} else "tiny")


def sizes_of(name: str) -> Sizes:
    """Those of the codec that `load_codec(name)` would load; UserError where it cannot be one."""
    if is_linear(name):
        return linear_sizes(name)
    folder = miniatures.find(name)
    if folder is None:
        if not Path(name).exists():
            check_name(name.partition("@")[0])
        return Sizes()
    # A safetensors file begins with the length of its header, 8 bytes, and the header as JSON.
    with (folder / miniatures.WEIGHTS).open("rb") as file:
        header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
    return _recorded(json.loads(header["__metadata__"]["config"]))


def _recorded(sizes: dict[str, Any]) -> Sizes:
    return Sizes(sizes["image_size"], sizes["tokens"], tuple(sizes["levels"]))


def linear_folder(name: str) -> Path | None:
    """The folder of a fitted linear codec, where the name is the path of one."""
    folder = Path(name).expanduser()
    return folder if (folder / f"{LINEAR}.json").exists() else None


def is_linear(name: str) -> bool:
    """Whether the name is that of a linear codec, fitted or to be fitted."""
    return name.partition(":")[0] == LINEAR or linear_folder(name) is not None


def linear_sizes(name: str) -> Sizes:
    """The sizes that the name or the folder of a linear codec says; UserError where it cannot have
    them.

    >>> linear_sizes("linear:tokens=16,levels=8-8-8-8").levels
    (8, 8, 8, 8)
    """
    if folder := linear_folder(name):
        return _recorded(read_json(folder / f"{LINEAR}.json"))
    usual = "tokens=64,size=64,levels=8-8-8-5-5-5"
    parts = f"{usual},{name.partition(':')[2]}".split(",")
    given = dict(part.partition("=")[::2] for part in parts if part)
    try:
        size, tokens = int(given.pop("size")), int(given.pop("tokens"))
        levels = tuple(map(int, given.pop("levels").split("-")))
    except ValueError:
        given[""] = ""
    if given:
        raise UserError(f"{name} says something else than linear:{usual}")
    if size not in range(32, 129, 2) or not 1 <= tokens <= 256:
        raise UserError(
            f"{name}: a linear codec has 1 to 256 tokens and an even size of 32 to 128 pixels"
        )
    if min(levels) < 2 or math.prod(levels) > MOST_IDS:
        raise UserError(
            f"{name}: levels are 2 or more each, and their product is at most {MOST_IDS}"
        )
    return Sizes(size, tokens, levels)


def check_name(name: str) -> None:
    """UserError where `name`, which is no folder, cannot be one of the Hugging Face hub."""
    if name.startswith((".", "/")) or name.count("/") != 1:
        raise UserError(
            f"unknown codec {name!r}: {', '.join(miniatures.shipped())}, linear, a folder that "
            "train_tiny_flextok.py wrote, a local FlexTok folder, or one of the hub (OWNER/NAME "
            f"or OWNER/NAME@REVISION) such as {', '.join(ZOO)}"
        )
