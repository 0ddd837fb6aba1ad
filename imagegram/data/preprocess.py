"""Any picture to the pixels that a codec takes."""

import contextlib
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from imagegram.data.arrays import top_of

if TYPE_CHECKING:
    from torch import Tensor


def described(margin: int = 0) -> str:
    """What `preprocess` does, in words: tokens that were made in another way are others."""
    exact = "bilinear antialiased resize of the shorter side, centre crop"
    scaled = f", JPEG at 1/2, 1/4 or 1/8 while the shorter side is {margin} times the result's"
    quick = f"{scaled}, resized by PyTorch" * bool(margin)
    return f"exif, alpha over white, RGB, {exact}{quick}"


def to_signed(images: "Tensor") -> "Tensor":
    """Pixels from 0 to 255 of any shape -> float32 in [-1, 1], what networks see."""
    return images.float() / 127.5 - 1


def to_bytes(images: "Tensor") -> "Tensor":
    """Floats in [-1, 1] of any shape -> pixels uint8, rounded; what lies outside is cut."""
    return ((images.clamp(-1, 1) + 1) * 127.5).round().byte()


# The EXIF orientation -> how to turn the picture upright (EXIF 2.32, tag 0x0112).
ORIENTATION = 0x0112
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
MOST_ASPECT = 8  # of a JPEG that PyTorch resizes, which makes all of it and not a square alone


def upright(image: Image.Image) -> Image.Image:
    """The picture turned as its EXIF says; a broken EXIF turns nothing.

    ImageOps.exif_transpose writes the other tags anew, which fails where one of them is damaged.
    """
    image.load()  # a TIFF is turned by that, and forgets its orientation
    orientation = None
    with contextlib.suppress(Exception):  # whatever is wrong beside the pixels
        orientation = image.getexif().get(ORIENTATION)
    turn = UPRIGHT.get(orientation) if isinstance(orientation, int) else None
    return image if turn is None else image.transpose(turn)


def deep_to_8_bit(image: Image.Image, top: int = 0) -> Image.Image:
    """Greys of more than 8 bits as 8, by the scale of their format where it says one.

    16 bits (I;16): 0 to 65535, however dark the picture is. 32-bit integers (I): as 16 bits, beyond
    that 0 to 2^31 - 1. Floats (F), whose format says nothing: 0 to `top`, that of their data set,
    or to their own `top_of`; NaN is 0. ValueError where they are negative, beyond it, or all NaN.
    """
    values = np.asarray(image, dtype=np.float32)
    most = float(np.nan_to_num(values, nan=0, posinf=np.inf).max())
    if image.mode == "F":
        least = float(np.nanmin(values)) if not np.isnan(values).all() else np.nan
        top = top or top_of(most)
        if not least >= 0 or not top_of(most, (top,)):
            scale = top or "1, 255 or 65535"
            what = f"floats from {least:g} to {most:g}"
            raise ValueError(f"{what}, which are no greys from 0 to {scale}")
        values = np.nan_to_num(values)
    else:
        top = 2**31 - 1 if image.mode == "I" and most > 65535 else 65535
    return Image.fromarray((values * np.float32(255 / top)).clip(0, 255).astype(np.uint8))


def to_rgb(image: Image.Image) -> Image.Image:
    """Any picture as upright 8-bit RGB, transparency over white."""
    image = upright(image)
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):  # convert() would clip, not scale
        image = deep_to_8_bit(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == "RGB" else image.convert("RGB")  # which would copy it


def preprocess(image: Image.Image, size: int, margin: int = 0) -> "Tensor":
    """RGB, shorter side resized (bilinear, antialiased), centre crop: uint8 [3, size, size].

    Only the square that is kept is resized: a picture of 1 x 100,000 takes no more memory than
    itself. With a `margin` (0: none) a JPEG that is not loaded yet takes less work: see `_quick`.
    """
    if margin and image.format == "JPEG" and max(image.size) <= MOST_ASPECT * min(image.size):
        return _quick(image, size, margin)
    import torch  # takes seconds, which a look at a data set need not wait for

    image = to_rgb(image)
    width, height, left, top = _square(*image.size, size)
    if image.size == (width, height):
        image = image.crop((left, top, left + size, top + size))
    else:
        # The square [left, left + size) of the whole resized picture, in the picture's own pixels.
        across, down = image.width / width, image.height / height
        box = (left * across, top * down, (left + size) * across, (top + size) * down)
        image = image.resize((size, size), Image.Resampling.BILINEAR, box)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


def _square(width: int, height: int, size: int) -> tuple[int, int, int, int]:
    """Width and height when the shorter one is `size`; left and top of the square in the middle."""
    scale = size / min(width, height)
    width, height = (max(size, round(side * scale)) for side in (width, height))
    return width, height, (width - size) // 2, (height - size) // 2


def _quick(jpeg: Image.Image, size: int, margin: int) -> "Tensor":
    """Decoded at 1/2, 1/4 or 1/8 where the shorter side still is `margin` times `size`, resized by
    PyTorch, which differs from Pillow by two grey levels at most: uint8 [3, size, size]."""
    import torch

    whole = jpeg.size
    jpeg.draft(None, (margin * size, margin * size))
    decoded = _upright_pixels(jpeg) if jpeg.size == whole else None
    decoded = np.array(to_rgb(jpeg)) if decoded is None else decoded
    pixels = torch.from_numpy(decoded).permute(2, 0, 1)
    width, height, left, top = _square(pixels.shape[2], pixels.shape[1], size)
    if pixels.shape[1:] != (height, width):
        pixels = torch.nn.functional.interpolate(
            pixels[None], (height, width), mode="bilinear", antialias=True
        )[0]
    return pixels[:, top : top + size, left : left + size].contiguous()


def _upright_pixels(jpeg: Image.Image) -> NDArray[np.uint8] | None:
    """[height, width, 3] by simplejpeg: Pillow's pixels with fewer copies. None where that is not
    installed, and for what Pillow is to turn, convert or refuse."""
    with contextlib.suppress(Exception):
        import simplejpeg

        if jpeg.mode == "RGB" and jpeg.getexif().get(ORIENTATION, 1) == 1:
            data = jpeg.fp.getvalue()  # type: ignore[attr-defined]
            return simplejpeg.decode_jpeg(data, fastdct=False, fastupsample=False)
    return None
