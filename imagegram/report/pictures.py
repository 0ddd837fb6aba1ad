"""The walls of the page: the pictures of every run, and what is known of each of their tokens."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from imagegram.files import read_json

MOST = 64  # pictures of a wall
HUES = 8  # sources of one picture that have a colour of their own
SINGLE = 0  # colour of a token whose source gave no other token
OTHER = HUES + 1  # colour of a token whose source gave several, where eight others gave more
GIVEN = HUES + 2  # colour of a token that was given


@dataclass(frozen=True)
class Wall:
    """Pictures of one run, in the order in which they were drawn; facts as in pictures.json."""

    name: str
    pictures: list[Image.Image]
    sources: NDArray[np.int64]  # [n, k, 3]: data set, ordinal, position
    facts: list[dict[str, Any]]
    prefixes: dict[int, dict[int, Image.Image]] = field(default_factory=dict)  # picture -> tokens -> image
    drawn: bool = True  # False: held-out images, decoded from their own tokens

    @property
    def colours(self) -> NDArray[np.int64]:
        """The colour of every token, [n, k]; of held-out images 1 where it equals the nearest training image's."""
        if self.drawn:
            return np.stack([colours_of(row) for row in self.sources])
        return np.array([[int(digit) for digit in fact["same"]] for fact in self.facts])

    @property
    def copied(self) -> NDArray[np.bool_]:
        """Whether every token is its source's as it stands, [n, k]."""
        k = self.sources.shape[1]
        return np.array([fact.get("steps", [0] * k) for fact in self.facts]) == 0

    def kind(self, i: int) -> str:
        """What picture `i` is, one of KINDS of measure/copying.py."""
        return str(self.facts[i]["kind"])


def read_wall(name: str, folder: Path, drawn: bool = True) -> Wall:
    """The first MOST pictures of a finished folder."""
    facts = read_json(folder / "pictures.json")[:MOST]
    numbers = range(len(facts))
    prefixes: dict[int, dict[int, Image.Image]] = {}
    for file in sorted(folder.glob("prefix_*_*.png")):
        _, picture, tokens = file.stem.split("_")
        prefixes.setdefault(int(picture), {})[int(tokens)] = _opened(file)
    return Wall(
        name=name,
        pictures=[_opened(folder / f"image_{i:04d}.png") for i in numbers],
        sources=np.load(folder / "sources.npy", mmap_mode="r")[: len(facts)],
        facts=facts,
        prefixes=prefixes,
        drawn=drawn,
    )


def _opened(file: Path) -> Image.Image:
    with Image.open(file) as picture:
        return picture.convert("RGB")


def colours_of(sources: NDArray[np.int64]) -> NDArray[np.int64]:
    """The colours of one picture's tokens, [k], from their sources [k, 3].

    The image that gave most of them has colour 1, the next colour 2, and so on.
    """
    places = [(int(source), int(ordinal)) for source, ordinal, _ in sources]
    counts = Counter(place for place in places if place[1] >= 0)
    repeated = [place for place, count in counts.most_common() if count > 1]
    colours = {place: min(rank, OTHER) for rank, place in enumerate(repeated, 1)}
    return np.array([GIVEN if place[1] < 0 else colours.get(place, SINGLE) for place in places])


def shares(sources: NDArray[np.int64]) -> list[tuple[tuple[int, int], int]]:
    """The images (data set, ordinal) that one picture's tokens [k, 3] came from, and how many each gave; most first."""
    places = [(int(source), int(ordinal)) for source, ordinal, _ in sources if ordinal >= 0]
    return Counter(places).most_common()
