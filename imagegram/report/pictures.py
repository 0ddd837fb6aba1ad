"""Pictures of the page: of every run, originals of the data sets, and sheets as data: URLs."""

import base64
import functools
import io
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from imagegram.cli import UserError
from imagegram.data.dataset import ImageDataset
from imagegram.data.preprocess import preprocess
from imagegram.files import read_json
from imagegram.index.folder import Index
from imagegram.metrics.held_out import HeldOut
from imagegram.report.sheets import as_picture
from imagegram.tokens import TokenFolder

MOST = 64  # pictures of a gallery
HUES = 8  # sources of one picture that have a colour of their own
SINGLE = 0  # colour of a token whose source gave no other token
OTHER = HUES + 1  # colour of a token whose source gave several, where eight others gave more
GIVEN = HUES + 2  # colour of a token that was given
GREY, RED, BLUE, BROWN, GREEN = "#80858d", "#d64545", "#2f7fd6", "#b8690b", "#2a8f4f"
SPARE = ("#9a5fd0", "#0f8a94", "#c74a9b", "#7a7f1e")
# A token whose source gave no other, eight sources that gave several, the rest of these, given
# tokens. Each can be told from a light and from a dark page: a contrast of 3 to both.
PALETTE = (GREY, RED, BLUE, BROWN, GREEN, *SPARE, "#6b7280", "#78716c")
# Of samplers, in every plot: the first whose name begins a sampler's name. Others get one of SPARE
# by theirs.
COLOURS = {"kernel": BLUE, "smoothed": GREEN, "aligned": BROWN, "ntd": RED, "unigram": GREY}
SIDE = 64  # pixels of a thumbnail at most
MOST_PIXELS = 1700 * 32 * 32  # of all thumbnails of originals together: keeps the page below 3 MB
QUALITY = 80  # of lossy WebP
Place = tuple[int, ...]  # number of the data set, ordinal


@dataclass(frozen=True)
class Gallery:
    """Pictures of one run, in the order in which they were drawn; facts as in pictures.json."""

    name: str
    pictures: list[Image.Image]
    sources: NDArray[np.int64]  # [n, k, 3]: data set, ordinal, position
    facts: list[dict[str, Any]]
    prefixes: dict[int, dict[int, Image.Image]] = field(default_factory=dict)
    """picture -> tokens -> image"""
    nearest: list[Image.Image] = field(default_factory=list)
    """the nearest training images, rebuilt by the codec"""
    drawn: bool = True  # False: held-out images, decoded from their own tokens

    @property
    def colours(self) -> NDArray[np.int64]:
        """Of every token, [n, k]; of held-out images 1 where it equals the nearest image's."""
        if self.drawn:
            return np.stack([colours_of(row) for row in self.sources])
        return np.array([[int(digit) for digit in fact["same"]] for fact in self.facts])

    @property
    def copied(self) -> NDArray[np.bool_]:
        """Whether every token is its source's as it stands, [n, k]."""
        k = self.sources.shape[1]
        return np.array([fact.get("steps", [0] * k) for fact in self.facts]) == 0

    @property
    def is_rebuilt(self) -> bool:
        """Whether the nearest training image of every picture is there as the codec rebuilds it."""
        return bool(self.nearest) and len(self.nearest) == len(self.pictures)

    @property
    def prefixed(self) -> list[int]:
        """The pictures that are there from fewer tokens as well."""
        return sorted(i for i in self.prefixes if i < len(self.pictures))

    @property
    def prefix_lengths(self) -> list[int]:
        """How many tokens these are decoded from."""
        return sorted({length for prefixes in self.prefixes.values() for length in prefixes})


def read_gallery(name: str, folder: Path, drawn: bool = True) -> Gallery:
    """The first MOST pictures of a finished folder."""
    facts = read_json(folder / "pictures.json")[:MOST]
    images, nearest = (
        [folder / f"{kind}_{i:04d}.png" for i in range(len(facts))] for kind in ("image", "nearest")
    )
    prefixes: dict[int, dict[int, Image.Image]] = {}
    for file in sorted(folder.glob("prefix_*_*.png")):
        _, picture, tokens = file.stem.split("_")
        prefixes.setdefault(int(picture), {})[int(tokens)] = _opened(file)
    return Gallery(
        name=name,
        pictures=[_opened(file) for file in images],
        sources=np.load(folder / "sources.npy", mmap_mode="r")[: len(facts)],
        facts=facts,
        prefixes=prefixes,
        nearest=[_opened(file) for file in nearest if file.exists()],
        drawn=drawn,
    )


def _opened(file: Path) -> Image.Image:
    with Image.open(file) as picture:
        return picture.convert("RGB")


def colours_of(sources: NDArray[np.int64]) -> NDArray[np.int64]:
    """The colours of one picture's tokens, [k], from their sources [k, 3]: the image that gave
    most of them has colour 1, the next colour 2, and so on."""
    places = [tuple(place) for place in sources[:, :2].tolist()]
    counts = Counter(place for place in places if place[1] >= 0)
    repeated = [place for place, count in counts.most_common() if count > 1]
    colours = {place: min(rank, OTHER) for rank, place in enumerate(repeated, 1)}
    return np.array([GIVEN if place[1] < 0 else colours.get(place, SINGLE) for place in places])


class Originals:
    """The images of the data sets themselves, read where they still are."""

    def __init__(self, folders: Sequence[TokenFolder]):
        self.folders = folders
        self._dataset = functools.cache(lambda number: _open(folders[number]))
        self.thumbnail = functools.cache(self._thumbnail)

    def _thumbnail(self, place: Place) -> Image.Image | None:
        """The same, SIDE pixels at most."""
        picture = self.picture(place)
        return picture and small(picture)

    def picture(self, place: Place) -> Image.Image | None:
        """One image as the codec saw it; None where the data set is gone or changed."""
        number, ordinal = place
        if not (dataset := self._dataset(number)):
            return None
        try:
            picture, _ = dataset.read(ordinal)
            return as_picture(preprocess(picture, self.folders[number].manifest.image_size))
        # what Pillow raises for files that it cannot read
        except (OSError, ValueError, SyntaxError):
            return None


def _open(folder: TokenFolder) -> ImageDataset | None:
    """The data set of a token folder; None where it is gone or has changed."""
    try:
        dataset = folder.manifest.dataset.open(folder.manifest.image_size)
    except UserError:
        return None
    return dataset if dataset.fingerprint == folder.manifest.fingerprint else None


class RealImages:
    """Every real image of the page, numbered from the most used on; the first have a thumbnail."""

    def __init__(self, uses: Counter[Place], originals: Originals, index: Index, held_out: HeldOut):
        self.places = [place for place, _ in uses.most_common()]
        self.numbers = {place: number for number, place in enumerate(self.places)}
        keys = index.images[:, 0] << 40 | index.images[:, 1]  # ascending
        asked = [number << 40 | ordinal for number, ordinal in self.places]
        rows = np.searchsorted(keys, asked).clip(0, len(keys) - 1)
        labels = dict(zip(self.places, index.images[rows, 2].tolist(), strict=True))
        labels |= zip(map(tuple, held_out.origins.tolist()), held_out.labels.tolist(), strict=True)
        self.labels = [labels[place] for place in self.places]  # -1: none
        side = min(SIDE, max(folder.manifest.image_size for folder in originals.folders))
        affordable = self.places[: MOST_PIXELS // side**2]
        self.thumbnails = [originals.thumbnail(place) for place in affordable]


def colour_of(sampler: str) -> str:
    """The colour of a sampler by its name, the same on every page and in every plot.

    >>> colour_of("kernel-near") == colour_of("kernel"), colour_of("mine") == colour_of("mine")
    (True, True)
    """
    known = next((colour for name, colour in COLOURS.items() if sampler.startswith(name)), "")
    return known or SPARE[zlib.crc32(sampler.encode()) % len(SPARE)]


def small(picture: Image.Image) -> Image.Image:
    """At most SIDE pixels wide."""
    if picture.width <= SIDE:
        return picture
    return picture.resize((SIDE, SIDE), Image.Resampling.BOX)


def sheet(pictures: Sequence[Image.Image | None], columns: int) -> str:
    """Pictures of one size, `columns` in a row, as a data: URL; grey where there is none."""
    size = next((picture.size for picture in pictures if picture is not None), (1, 1))
    rows = max(1, -(-len(pictures) // columns))
    canvas = Image.new("RGB", (columns * size[0], rows * size[1]), (128, 128, 128))
    for i, picture in enumerate(pictures):
        if picture is not None:
            canvas.paste(picture, (i % columns * size[0], i // columns * size[1]))
    return data_url(canvas, "webp", quality=QUALITY, method=4)


def bars(colours: NDArray[np.int64], copied: NDArray[np.bool_], palette: Sequence[str]) -> str:
    """Colours [n, k] as a picture of k columns and 2 n rows, as a data: URL: the lower pixel of a
    token is transparent where it is not `copied` [n, k] as it stands."""
    n, k = colours.shape
    rows = np.stack([colours, np.where(copied, colours, len(palette))], 1).reshape(2 * n, k)
    canvas = Image.fromarray(rows.astype(np.uint8), "P")
    canvas.putpalette(b"".join(bytes.fromhex(colour[1:]) for colour in palette) + bytes(3))
    return data_url(canvas, "png", optimize=True, transparency=len(palette))


def data_url(picture: Image.Image, kind: str, **options: object) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return f"data:image/{kind};base64," + base64.b64encode(buffer.getvalue()).decode()
