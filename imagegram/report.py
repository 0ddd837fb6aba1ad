"""Pictures and the page: contact sheets, where images came from, one self-contained HTML file."""

import base64
import io
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from imagegram.common import atomic

PAPER, INK, COPY = (255, 255, 255), (40, 40, 40), (214, 39, 40)
CELL = 96  # pixels: small images are enlarged to about this
GAP = 4  # pixels


def _pictures(images: Tensor) -> list[Image.Image]:
    """uint8 [n, 3, S, S] -> pictures, small ones enlarged by a whole factor without smoothing."""
    factor = max(1, CELL // images.shape[-1])
    side = images.shape[-1] * factor
    arrays = images.permute(0, 2, 3, 1).contiguous().numpy()
    return [Image.fromarray(a).resize((side, side), Image.Resampling.NEAREST) for a in arrays]


def save_images(images: Tensor, folder: Path) -> None:
    """Write uint8 [n, 3, S, S] as image_0000.png ... at their own size."""
    for i, array in enumerate(images.permute(0, 2, 3, 1).contiguous().numpy()):
        Image.fromarray(array).save(folder / f"image_{i:04d}.png")


def rows_of_images(rows: list[tuple[str, Tensor]]) -> Image.Image:
    """One labelled row of images for each (label, uint8 [n, 3, S, S])."""
    pictures = [(label, _pictures(images)) for label, images in rows]
    side, font = pictures[0][1][0].width, ImageFont.load_default(14)
    margin = 12 + max(int(font.getlength(label)) for label, _ in pictures)
    columns = max(len(p) for _, p in pictures)
    sheet = Image.new("RGB", (margin + columns * (side + GAP), len(rows) * (side + GAP) + GAP), PAPER)
    draw = ImageDraw.Draw(sheet)
    for r, (label, line) in enumerate(pictures):
        top = GAP + r * (side + GAP)
        draw.text((margin - 6, top + side // 2), label, INK, font, anchor="rm")
        for c, picture in enumerate(line):
            sheet.paste(picture, (margin + c * (side + GAP), top))
    return sheet


def grid(generated: Tensor, nearest: Tensor, copies: NDArray[np.bool_], columns: int = 16) -> Image.Image:
    """Generated images uint8 [n, 3, S, S], each above its nearest training image; exact copies are framed in red."""
    above, below = _pictures(generated), _pictures(nearest)
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


def shares(sources: NDArray[np.int64]) -> list[tuple[int, float]]:
    """Training rows that one image's tokens [k, 2] came from, with their share of it, largest first."""
    rows, counts = np.unique(sources[:, 0], return_counts=True)
    order = np.argsort(-counts, kind="stable")
    return [(int(rows[i]), float(counts[i]) / len(sources)) for i in order]


def provenance(generated: list[Image.Image], sources: list[list[tuple[Image.Image, float]]]) -> Image.Image:
    """Each generated image beside the training images it was stitched from, with the share of each in per cent."""
    font = ImageFont.load_default(13)
    side = generated[0].width
    row, columns = side + 20, max(map(len, sources))
    sheet = Image.new("RGB", ((side + GAP) * (columns + 1) + 24, row * len(generated) + 20), PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((GAP, 2), "generated", INK, font)
    draw.text((side + 24 + GAP, 2), "training images its tokens came from", INK, font)
    for r, (picture, parts) in enumerate(zip(generated, sources, strict=True)):
        y = 20 + r * row
        sheet.paste(picture, (GAP, y))
        for c, (part, share) in enumerate(parts):
            x = 24 + (c + 1) * (side + GAP)
            sheet.paste(part, (x, y))
            draw.text((x + side // 2, y + side + 2), f"{share:.0%}", INK, font, anchor="ma")
    return sheet


def embedded(file: Path | Image.Image) -> str:
    """A picture as a data: URL, so that the page is one file."""
    if isinstance(file, Path):
        data = file.read_bytes()
    else:
        buffer = io.BytesIO()
        file.save(buffer, "PNG")
        data = buffer.getvalue()
    return "data:image/png;base64," + base64.b64encode(data).decode()


def rate(value: dict[str, float], digits: int = 1) -> str:
    """A rate with its interval, in per cent: "54.0 % [50.9, 57.1]"."""
    return f"{100 * value['value']:.{digits}f} % [{100 * value['low']:.{digits}f}, {100 * value['high']:.{digits}f}]"


def number(value: dict[str, float]) -> str:
    """A number with its interval: "6.62 [6.41, 6.83]"."""
    return f"{value['value']:.2f} [{value['low']:.2f}, {value['high']:.2f}]"


def write_page(path: Path, **content: Any) -> None:
    """Render page.html.j2 into one HTML file."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=jinja2.StrictUndefined
    )
    environment.filters |= {"embedded": embedded, "rate": rate, "number": number}
    with atomic(path) as temporary:
        temporary.write_text(environment.get_template("page.html.j2").render(**content))
