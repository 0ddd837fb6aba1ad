"""Any picture to the pixels that a codec takes."""

import numpy as np
import torch
from PIL import Image, ImageOps

PREPROCESSING = "exif, alpha over white, RGB, bilinear antialiased resize of the shorter side, centre crop"


def to_rgb(image: Image.Image) -> Image.Image:
    """Any picture as upright 8-bit RGB, transparency over white."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):  # convert() would clip, not scale
        values = np.asarray(image, dtype=np.float32)
        image = Image.fromarray((values / (257 if values.max() > 255 else 1)).clip(0, 255).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def preprocess(image: Image.Image, size: int) -> torch.Tensor:
    """RGB, shorter side resized to `size` (bilinear, antialiased), centre crop: uint8 [3, size, size]."""
    image = to_rgb(image)
    scale = size / min(image.size)
    width, height = (max(size, round(side * scale)) for side in image.size)
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = (width - size) // 2, (height - size) // 2
    image = image.crop((left, top, left + size, top + size))
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()
