"""Contact sheets: images beside their nearest ones, their sources, and parts of their tokens."""

import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from imagegram.files import atomic
from imagegram.index.folder import Index
from imagegram.metrics import copying
from imagegram.samplers import Sampler, Samples

PAPER, INK, COPY = (255, 255, 255), (40, 40, 40), (214, 39, 40)
CELL = 96  # pixels: small images are enlarged to about this
GAP = 4  # pixels
GRID = 64  # images of the contact sheet
STITCHED = 6  # images shown beside their sources
MOST_SOURCES = 6  # of each
# pictures of a run
OURS = re.compile(r"(image|nearest|prefix)_[\d_]+|grid|sources|prefixes|seeds|listening")
SEEDS = 6  # noises that a sequence is decoded from
MOST_RELEVANCE = 40.0  # percent, the end of the colours of position_relevance
APART = 100_000  # between the seeds of these: the images of a run have seeds that follow each other

# Prefixes and a seed for each -> images uint8 [n, 3, S, S].
Decode = Callable[[Sequence[NDArray[np.uint16]], NDArray[np.int64]], Tensor]


def as_picture(image: Tensor) -> Image.Image:
    """uint8 [3, S, S] -> a picture of its own size."""
    return Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())


def _enlarged(images: Tensor) -> list[Image.Image]:
    """uint8 [n, 3, S, S] -> pictures, small ones enlarged by a whole factor without smoothing."""
    side = images.shape[-1] * max(1, CELL // images.shape[-1])
    return [as_picture(image).resize((side, side), Image.Resampling.NEAREST) for image in images]


def as_pictures(images: Tensor, kind: str = "image") -> dict[str, Image.Image]:
    """uint8 [n, 3, S, S] -> image_0000 ... (or KIND_0000 ...) at their own size."""
    return {f"{kind}_{i:04d}": as_picture(image) for i, image in enumerate(images)}


def rows_of_images(rows: list[tuple[str, Tensor]], titles: Sequence[str] = ()) -> Image.Image:
    """A labelled row of images for each (label, uint8 [n, 3, S, S]), under titles of columns."""
    pictures = [(label, _enlarged(images)) for label, images in rows]
    side, font = pictures[0][1][0].width, ImageFont.load_default(14)
    margin = 12 + max(int(font.getlength(label)) for label, _ in pictures)
    head, step = GAP + 18 * bool(titles), side + GAP
    columns = max(len(line) for _, line in pictures)
    sheet = Image.new("RGB", (margin + columns * step, head + len(rows) * step), PAPER)
    draw = ImageDraw.Draw(sheet)
    for c, title in enumerate(titles):
        draw.text((margin + c * step + side // 2, head - 4), title, INK, font, anchor="ms")
    for r, (label, line) in enumerate(pictures):
        top = head + r * step
        draw.text((margin - 6, top + side // 2), label, INK, font, anchor="rm")
        for c, picture in enumerate(line):
            sheet.paste(picture, (margin + c * step, top))
    return sheet


def grid(
    generated: Tensor, nearest: Tensor, copies: NDArray[np.bool_], columns: int = 16
) -> Image.Image:
    """Images uint8 [n, 3, S, S], each above its nearest training image; copies framed in red."""
    above, below = _enlarged(generated), _enlarged(nearest)
    side = above[0].width
    columns = min(columns, len(above))
    rows = -(-len(above) // columns)
    width, height = side + 2 * GAP, 2 * side + 4 * GAP
    sheet = Image.new("RGB", (columns * width, rows * height), PAPER)
    draw = ImageDraw.Draw(sheet)
    for i, (top, bottom) in enumerate(zip(above, below, strict=True)):
        x, y = i % columns * width + GAP, i // columns * height + GAP
        if copies[i]:
            draw.rectangle((x - 3, y - 3, x + side + 2, y + 2 * side + 3), fill=COPY)
        sheet.paste(top, (x, y))
        sheet.paste(bottom, (x, y + side + 1))
    return sheet


def shares(places: NDArray[np.int64]) -> list[tuple[tuple[int, ...], int]]:
    """The images that one picture's tokens came from, `places` [k, m], and how many tokens each
    gave, most first; without given tokens, whose places are negative.

    >>> shares(np.array([[0, 7], [0, 2], [-1, -1], [0, 7]]))
    [((0, 7), 2), ((0, 2), 1)]
    """
    found, counts = np.unique(places[(places >= 0).all(1)], axis=0, return_counts=True)
    return [(tuple(found[i].tolist()), int(counts[i])) for i in np.argsort(-counts, kind="stable")]


def provenance(
    generated: Tensor, originals: Tensor, parts: list[list[tuple[int, float]]]
) -> Image.Image:
    """Generated images uint8 [n, 3, S, S], each beside the training images that it was stitched
    from: their (ordinal, share) in `parts`, their pictures, uint8, in a row in `originals`."""
    font, left, right = ImageFont.load_default(13), _enlarged(generated), iter(_enlarged(originals))
    side, columns = left[0].width, max(map(len, parts))
    row, x0 = side + 40, side + 30
    sheet = Image.new("RGB", (x0 + columns * (side + GAP), row * len(left) + 22), PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((GAP, 3), "generated", INK, font)
    head = "training images its tokens came from, and their share of the tokens"
    draw.text((x0, 3), head, INK, font)
    for r, (picture, part) in enumerate(zip(left, parts, strict=True)):
        y = 22 + r * row
        sheet.paste(picture, (GAP, y))
        for c, (ordinal, share) in enumerate(part):
            x = x0 + c * (side + GAP)
            sheet.paste(next(right), (x, y))
            place, caption = (x + side // 2, y + side + 3), f"{share:.0%}\n#{ordinal}"
            draw.multiline_text(place, caption, INK, font, anchor="ma", align="center")
    return sheet


def prefix_lengths(tokens: int) -> list[int]:
    """1, 2, 4, ... and all of them: where a coarse-to-fine tokenizer shows what it adds.

    >>> prefix_lengths(16), prefix_lengths(12), prefix_lengths(1)
    ([1, 2, 4, 8, 16], [1, 2, 4, 8, 12], [1])
    """
    return [*(2**i for i in range((tokens - 1).bit_length())), tokens]


def prefixes(
    decode: Decode,
    tokens: NDArray[np.uint16],
    seeds: NDArray[np.int64],
    images: Tensor,
    none: bool = False,
) -> dict[str, Image.Image]:
    """Decode the first 1, 2, 4, ... tokens of the sequences [n, L], each from its own noise `seeds`
    [n]; none: no token as well.

    Draws prefixes, a sequence a row, which ends with its whole image, of `images` uint8 [n, 3, S,
    S]; and each besides at its own size, as prefix_IMAGE_TOKENS.
    """
    steps = [0] * none + prefix_lengths(tokens.shape[1])
    parts = [row[:k] for row in tokens for k in steps[:-1]]
    rows = [image[None] for image in images]
    if parts:
        decoded = decode(parts, np.repeat(seeds, len(steps) - 1)).split(len(steps) - 1)
        rows = [torch.cat([line, whole]) for line, whole in zip(decoded, rows, strict=True)]
    titles = [f"{k} token{'s' * (k != 1)}" for k in steps]
    drawn = {"prefixes": rows_of_images([(f"{i}", line) for i, line in enumerate(rows)], titles)}
    for i, line in enumerate(rows):
        for k, picture in zip(steps, as_pictures(line).values(), strict=True):
            drawn[f"prefix_{i:04d}_{k:04d}"] = picture
    return drawn


def noises(
    decode: Decode, tokens: NDArray[np.uint16], seeds: NDArray[np.int64], images: Tensor
) -> dict[str, Image.Image]:
    """Decode the sequences [n, L] from several noises and draw seeds, a sequence a row: what the
    tokens leave open. First the image itself, of `images` uint8 [n, 3, S, S], from its own noise
    `seeds` [n]."""
    again = [seed + APART * i for seed in seeds for i in range(1, SEEDS)]
    decoded = decode(list(np.repeat(tokens, SEEDS - 1, 0)), np.array(again)).split(SEEDS - 1)
    rows = [(f"{i}", torch.cat([images[i : i + 1], line])) for i, line in enumerate(decoded)]
    return {"seeds": rows_of_images(rows, [f"noise {i}" for i in range(SEEDS)])}


def position_relevance(relevance: NDArray[np.floating]) -> Image.Image:
    """The relevance [L, L] of every position of the context to every predicted one, a row each:
    shares of the distance in a fitted kernel (`Kernel.listening`), as a heat map."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    length = len(relevance)
    figure = Figure(figsize=(5.6, 4.8), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots()
    later = np.arange(length)[None] > np.arange(length)[:, None]
    shown = np.ma.masked_array(100 * relevance, later)  # what comes later is no context: blank
    edges = (0.5, length + 0.5, length + 0.5, 0.5)  # positions from 1
    # The first rows have few positions: what is above MOST_RELEVANCE is black.
    drawn = axes.imshow(
        shown, "magma_r", vmin=0, vmax=MOST_RELEVANCE, interpolation="nearest", extent=edges
    )
    axes.set(xlabel="token of the context", ylabel="predicting token")
    title = "Relevance of positions: which token tells images apart when the next is predicted"
    axes.set_title(title, fontsize=10)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    figure.colorbar(drawn, label="% of the distance (a row: 100 %)", extend="max")
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy())


def save_all(folder: Path, drawings: dict[str, Image.Image]) -> None:
    """Write the pictures of a run in place of those that the folder held."""
    for picture in folder.glob("*.png"):
        if OURS.fullmatch(picture.stem) and picture.stem not in drawings:
            picture.unlink()

    def save(name: str) -> None:
        with atomic(folder / f"{name}.png") as temporary:
            drawings[name].save(temporary, "png")

    with ThreadPoolExecutor() as pool:  # a disk flushes many small files in the time of one
        list(pool.map(save, drawings))


def draw_all(
    decode: Decode,
    index: Index,
    samples: Samples,
    images: Tensor,
    seeds: NDArray[np.int64],
    sampler: Sampler,
    prefixed: int,
    noised: int,
) -> dict[str, Image.Image]:
    """All pictures of a run, by name; none where no image is decoded.

    images: uint8 [m, 3, S, S] of the first samples, from the noise of `seeds` [m]. prefixed,
    noised: how many sequences `prefixes` and `noises` show.
    """
    if not len(images):
        return {}
    shown = samples.tokens[: min(len(images), GRID)]
    length = shown.shape[1]

    # Each image above its nearest training image; an exact copy looks like its original.
    rows, distances = copying.nearest(shown, index.tokens)
    neighbours = images[: len(shown)].clone()
    others = np.flatnonzero(distances)
    if others.size:
        neighbours[others] = decode(list(index.tokens[rows[others], :length]), seeds[others])
    drawings = {"grid": grid(images[: len(shown)], neighbours, distances == 0)}
    drawings |= as_pictures(neighbours, "nearest")

    # Images beside the training images that their tokens came from.
    few = slice(0, min(STITCHED, len(shown)))
    parts = [shares(places[:, :1])[:MOST_SOURCES] for places in samples.sources[few]]
    rows = np.array([row for part in parts for (row,), _ in part])
    originals = decode(list(index.tokens[rows, :length]), np.arange(len(rows)))
    ordinals = index.images[:, 1]
    named = [[(int(ordinals[row]), count / length) for (row,), count in part] for part in parts]
    drawings["sources"] = provenance(images[few], originals, named)

    relevance = sampler.relevance(index)
    if relevance is not None:
        drawings["listening"] = position_relevance(relevance)
    for sheet, count in ((prefixes, prefixed), (noises, noised)):
        if count:
            few = slice(0, min(count, len(shown)))
            drawings |= sheet(decode, shown[few], seeds[few], images[few])
    return drawings | as_pictures(images)
