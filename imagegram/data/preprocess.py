"""Any picture to the pixels that a codec takes."""

import contextlib

import numpy as np
import torch
from PIL import Image

PREPROCESSING = "exif, alpha over white, RGB, bilinear antialiased resize of the shorter side, centre crop"


def to_signed(images: torch.Tensor) -> torch.Tensor:
    """Pixels uint8 (or floats from 0 to 255) of any shape -> float32 in [-1, 1], what networks see."""
    return images.float() / 127.5 - 1


def to_bytes(images: torch.Tensor) -> torch.Tensor:
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


def upright(image: Image.Image) -> Image.Image:
    """The picture turned as its EXIF says; a broken EXIF turns nothing.

    Unlike ImageOps.exif_transpose it does not write the other tags anew, which fails where one of them is damaged.
    """
    image.load()  # a TIFF is turned by that, and forgets its orientation
    orientation = None
    with contextlib.suppress(Exception):  # whatever is wrong beside the pixels
        orientation = image.getexif().get(ORIENTATION)
    turn = UPRIGHT.get(orientation) if isinstance(orientation, int) else None
    return image if turn is None else image.transpose(turn)


def deep_to_8_bit(image: Image.Image) -> Image.Image:
    """Greys of more than 8 bits as 8, by the scale of their format where it says one.

    16 bits (I;16): 0 to 65535, however dark the picture is. 32-bit integers (I): as 16 bits, beyond that 0 to 2^31 - 1.
    Floats (F), whose format says nothing: up to 1 for 0 to 1, up to 255 for 0 to 255, beyond that for 16 bits; what is
    no number (NaN) is 0. ValueError where they are negative, infinite, or all no numbers: they have another scale.
    """
    values = np.asarray(image, dtype=np.float32)
    if image.mode == "F":
        known = values[~np.isnan(values)]
        if not known.size or known.min() < 0 or np.isinf(known).any():
            least, most = (known.min(), known.max()) if known.size else (np.nan, np.nan)
            raise ValueError(f"floats from {least:g} to {most:g}, which are no greys from 0 to 1, 255 or 65535")
        values = np.nan_to_num(values)
    most = values.max()
    if image.mode == "F" and most <= 1:
        scale = 255.0
    elif image.mode == "F" and most <= 255:
        scale = 1.0
    elif image.mode == "I" and most > 65535:
        scale = 255 / (2**31 - 1)
    else:
        scale = 1 / 257
    return Image.fromarray((values * scale).clip(0, 255).astype(np.uint8))


def to_rgb(image: Image.Image) -> Image.Image:
    """Any picture as upright 8-bit RGB, transparency over white."""
    image = upright(image)
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):  # convert() would clip, not scale
        image = deep_to_8_bit(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def preprocess(image: Image.Image, size: int) -> torch.Tensor:
    """RGB, shorter side resized to `size` (bilinear, antialiased), centre crop: uint8 [3, size, size].

    Only the square that is kept is resized, so that a picture of 1 x 100,000 takes no more memory than itself.
    """
    image = to_rgb(image)
    scale = size / min(image.size)
    width, height = (max(size, round(side * scale)) for side in image.size)
    left = (width - size) // 2
    top = (height - size) // 2
    if image.size == (width, height):
        image = image.crop((left, top, left + size, top + size))
    else:
        # The square [left, left + size) of the whole resized picture, in the picture's own pixels.
        across = image.width / width
        down = image.height / height
        box = (left * across, top * down, (left + size) * across, (top + size) * down)
        image = image.resize((size, size), Image.Resampling.BILINEAR, box)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()
