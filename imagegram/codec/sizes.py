"""What is known of a codec by its name alone: nothing is loaded, and nothing waits for torch."""

import json
import math
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

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


LINEAR_SIZES = Sizes(image_size=64, tokens_per_image=64)


def chosen(name: str, data_sets: Iterable[str]) -> str:
    """The codec `name`; where it is "" the linear one for emoji, which no shipped miniature knows,
    else "tiny".

    >>> chosen("", ["emoji"]), chosen("", ["digits", "emoji"]), chosen("fashion", ["emoji"])
    ('linear', 'tiny', 'fashion')
    """
    return name or (LINEAR if set(data_sets) == {"emoji"} else "tiny")


def sizes_of(name: str) -> Sizes:
    """The sizes of the codec that `load_codec(name)` would load; UserError where it cannot be
    one."""
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
    config = json.loads(header["__metadata__"]["config"])
    return Sizes(config["image_size"], config["tokens"], tuple(config["levels"]))


def linear_folder(name: str) -> Path | None:
    """The folder of a fitted linear codec that the name is the path of; None where it is none."""
    folder = Path(name).expanduser()
    return folder if (folder / f"{LINEAR}.json").exists() else None


def is_linear(name: str) -> bool:
    """Whether the name is that of a linear codec, fitted or to be fitted."""
    return name.partition(":")[0] == LINEAR or linear_folder(name) is not None


def linear_sizes(name: str) -> Sizes:
    """The sizes of a linear codec, as its name or its folder says them; UserError where it cannot
    have them.

    >>> linear_sizes("linear:tokens=16,levels=8-8-8-8").levels
    (8, 8, 8, 8)
    """
    sizes = LINEAR_SIZES
    if folder := linear_folder(name):
        found = read_json(folder / f"{LINEAR}.json")
        return Sizes(found["image_size"], found["tokens"], tuple(found["levels"]))
    given = dict(part.partition("=")[::2] for part in name.partition(":")[2].split(",") if part)
    try:
        size = int(given.pop("size", sizes.image_size))
        tokens = int(given.pop("tokens", sizes.tokens_per_image))
        levels = tuple(map(int, given.pop("levels", "-".join(map(str, sizes.levels))).split("-")))
        sizes = Sizes(size, tokens, levels)
    except ValueError:
        given[""] = ""
    if given:
        raise UserError(
            f"{name} says something else than linear:tokens=64,size=64,levels=8-8-8-5-5-5"
        )
    if sizes.image_size not in range(32, 129, 2) or not 1 <= sizes.tokens_per_image <= 256:
        raise UserError(
            f"{name}: a linear codec has 1 to 256 tokens and an even size of 32 to 128 pixels"
        )
    if min(sizes.levels) < 2 or math.prod(sizes.levels) > MOST_IDS:
        raise UserError(
            f"{name}: levels are 2 or more each, and their product is at most {MOST_IDS}"
        )
    return sizes


def check_name(name: str) -> None:
    """UserError where `name`, which is no folder, cannot be that of a model of the Hugging Face
    hub."""
    if name.startswith((".", "/")) or name.count("/") != 1:
        raise UserError(
            f"unknown codec {name!r}: {', '.join(miniatures.shipped())}, linear, a folder that "
            "train_tiny_flextok.py wrote, a local FlexTok folder, or one of the hub (OWNER/NAME "
            f"or OWNER/NAME@REVISION) such as {', '.join(ZOO)}"
        )
