"""JPEGs decoded whole, and as small as the codec can do with: images a core-second, and what that changes.

    python -m benchmarks.bench_preprocess

libjpeg decodes a JPEG at 1/2, 1/4 or 1/8 of its size for less work, and PyTorch resizes for less
than Pillow. `margin`: how many times the codec's side the shorter side of what is decoded has at
least; 0: all is decoded, and resized by Pillow; 1,000: all is decoded, and resized by PyTorch.
Photographs that scikit-learn and Matplotlib carry, cut at random places; for 2,000 x 1,500 pixels
mirrored at their edges before. Prints a line for each: images a core-second from the bytes of a
file to the codec's pixels and their ratio to margin 0 (medians of `repeats` turns), the mean and
the greatest difference from margin 0 in grey levels of 255, and of 32 pixels the share of the
miniature's tokens that are others. For comparison the last two of JPEGs that are saved once more,
at quality 90, and decoded whole.
"""

import io
import statistics
import sys
import time
from dataclasses import dataclass
from importlib.resources import files

import numpy as np
import torch
from PIL import Image

from imagegram.cli import run_script
from imagegram.codec import load_codec
from imagegram.data.dataset import open_picture
from imagegram.data.preprocess import preprocess

PHOTOGRAPHS = (
    ("sklearn.datasets", "images/china.jpg"),
    ("sklearn.datasets", "images/flower.jpg"),
    ("matplotlib", "mpl-data/sample_data/grace_hopper.jpg"),
)
SHAPES = ((500, 375), (2000, 1500))
SIZES = (32, 256)  # of the miniature and of FlexTok
MARGINS = (0, 1, 2, 4, 1000)
QUALITY = 90


@dataclass
class Config:
    images: int = 48  # of each shape
    repeats: int = 7


def photographs(width: int, height: int, count: int, rng: np.random.Generator) -> list[bytes]:
    """So many JPEGs of the shape, cut from the photographs in turn, every other one mirrored."""
    sources = [
        np.asarray(Image.open(io.BytesIO((files(p) / name).read_bytes())).convert("RGB")) for p, name in PHOTOGRAPHS
    ]
    made = []
    for number in range(count):
        picture = sources[number % len(sources)]
        more = [(0, max(0, side + 50 - have)) for side, have in zip((height, width), picture.shape, strict=False)]
        picture = np.pad(picture, [*more, (0, 0)], mode="reflect")
        top, left = (int(rng.integers(have - side)) for have, side in zip(picture.shape, (height, width), strict=False))
        cut = picture[top : top + height, left : left + width, :][:, :: 1 if number % 2 else -1]
        file = io.BytesIO()
        Image.fromarray(cut).save(file, "jpeg", quality=QUALITY)
        made.append(file.getvalue())
    return made


def saved_again(jpeg: bytes) -> bytes:
    """The same picture, decoded and saved as a JPEG once more: what many pictures have been through."""
    file = io.BytesIO()
    open_picture(jpeg).save(file, "jpeg", quality=QUALITY)
    return file.getvalue()


def main(config: Config) -> None:
    codec = load_codec("tiny")
    for shape in SHAPES:
        jpegs = photographs(*shape, config.images, np.random.default_rng(0))
        for size in SIZES:
            seconds: dict[int, list[float]] = {margin: [] for margin in MARGINS}
            pixels = {}
            for _ in range(config.repeats):  # in turns: other work comes and goes
                for margin in MARGINS:
                    started = time.process_time()
                    made = [preprocess(open_picture(jpeg), size, margin) for jpeg in jpegs]
                    pixels[margin] = torch.stack(made)
                    seconds[margin].append(time.process_time() - started)
            for margin, found in pixels.items():
                pairs = zip(seconds[0], seconds[margin], strict=True)
                times = statistics.median(whole / scaled for whole, scaled in pairs)
                difference = (found.float() - pixels[0].float()).abs()
                rate = len(jpegs) / statistics.median(seconds[margin])
                said = f"{shape[0]} x {shape[1]} to {size}, margin {margin}: "
                said += f"{rate:.0f} images a core-second, {times:.2f} times, "
                said += f"difference {difference.mean():.3f}, at most {difference.max():.0f}"
                if size == codec.image_size:
                    others = (codec.encode(found) != codec.encode(pixels[0])).mean()
                    said += f", {others:.2%} of the tokens"
                print(said, flush=True)
        again = torch.stack([preprocess(open_picture(saved_again(jpeg)), codec.image_size) for jpeg in jpegs])
        whole = torch.stack([preprocess(open_picture(jpeg), codec.image_size) for jpeg in jpegs])
        difference = (again.float() - whole.float()).abs().mean()
        others = (codec.encode(again) != codec.encode(whole)).mean()
        print(f"for comparison, saved as a JPEG once more: difference {difference:.2f}, {others:.1%} of the tokens")


if __name__ == "__main__":
    sys.exit(run_script(main, Config, __doc__))
