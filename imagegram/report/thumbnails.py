"""Small pictures of the page: the originals of the data sets, and sheets of many pictures as one data: URL."""

import base64
import io
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from imagegram.cli import UserError
from imagegram.data.dataset import ImageDataset
from imagegram.data.preprocess import preprocess
from imagegram.index.folder import Index
from imagegram.metrics.held_out import APART, Control
from imagegram.tokens import TokenFolder

SIDE = 64  # pixels of a thumbnail at most
MOST_PIXELS = 1700 * 32 * 32  # of all thumbnails of originals together: keeps the page below 3 MB
QUALITY = 80  # of lossy WebP
Place = tuple[int, int]  # number of the data set, ordinal


class Originals:
    """The images of the data sets themselves, read where they still are."""

    def __init__(self, folders: Sequence[TokenFolder]):
        self.folders = folders
        self._sources: dict[int, ImageDataset | None] = {}
        self._thumbnails: dict[Place, Image.Image | None] = {}

    def thumbnail(self, place: Place) -> Image.Image | None:
        """One image as the codec saw it, SIDE pixels at most; None where the data set is gone or changed."""
        if place not in self._thumbnails:
            picture = self.picture(place)
            self._thumbnails[place] = None if picture is None else small(picture)
        return self._thumbnails[place]

    def picture(self, place: Place) -> Image.Image | None:
        """One image at the size that the codec saw; None as above."""
        number, ordinal = place
        if number not in self._sources:
            self._sources[number] = _open(self.folders[number])
        source = self._sources[number]
        if source is None:
            return None
        try:
            picture, _ = source.read(ordinal)
            pixels = preprocess(picture, self.folders[number].manifest.image_size)
        except (OSError, ValueError, SyntaxError):  # what Pillow raises for files that it cannot read
            return None
        return Image.fromarray(pixels.permute(1, 2, 0).numpy())


def _open(folder: TokenFolder) -> ImageDataset | None:
    """The data set of a token folder; None where it is gone or has changed."""
    try:
        dataset = folder.manifest.dataset.open(folder.manifest.image_size)
    except UserError:
        return None
    return dataset if dataset.fingerprint == folder.manifest.fingerprint else None


class Gallery:
    """Every real image that the page refers to, numbered from the most used on; the first ones have a thumbnail."""

    def __init__(self, uses: Counter[Place], originals: Originals, labels: "Labels"):
        self.places = [place for place, _ in uses.most_common()]
        self.numbers = {place: number for number, place in enumerate(self.places)}
        self.labels = [labels.of(place) for place in self.places]
        side = min(SIDE, max(folder.manifest.image_size for folder in originals.folders))
        affordable = self.places[: MOST_PIXELS // side**2]
        self.thumbnails = [originals.thumbnail(place) for place in affordable]


class Labels:
    """The class of every image of the index and of the control, by its place."""

    def __init__(self, index: Index, control: Control):
        self._keys = index.images[:, 0] << 40 | index.images[:, 1]  # ascending: data sets and ordinals are in order
        self._labels = index.images[:, 2]
        held_out = zip(control.origins.tolist(), control.labels.tolist(), strict=True)
        self._held_out = {(number, ordinal): label - number * APART for (number, ordinal), label in held_out}

    def of(self, place: Place) -> int:
        """The class, -1 where the data set has none."""
        if place in self._held_out:
            return int(self._held_out[place])
        row = int(np.searchsorted(self._keys, place[0] << 40 | place[1]))
        return int(self._labels[row])


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
    return data_url(canvas, "webp", quality=QUALITY, method=6)


def bars(colours: NDArray[np.int64], copied: NDArray[np.bool_], palette: Sequence[str]) -> str:
    """Colours [n, k] as a picture of k columns, one pixel a token, as a data: URL.

    Two rows of pixels each: the lower one is transparent where the token is not `copied` [n, k] as it stands.
    """
    n, k = colours.shape
    rows = np.stack([colours, np.where(copied, colours, len(palette))], 1).reshape(2 * n, k)
    canvas = Image.fromarray(rows.astype(np.uint8), "P")
    canvas.putpalette(b"".join(bytes.fromhex(colour[1:]) for colour in palette) + bytes(3))
    return data_url(canvas, "png", optimize=True, transparency=len(palette))


def data_url(picture: Image.Image, kind: str, **options: object) -> str:
    """A picture as a data: URL."""
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return f"data:image/{kind};base64," + base64.b64encode(buffer.getvalue()).decode()
