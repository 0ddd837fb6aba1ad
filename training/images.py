"""Data sets as tensors: what the embedded tokenizer is trained on, and how its images are
varied."""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from imagegram.cli import UserError
from imagegram.data.loading import load_images, worker_errors_as_user_errors
from imagegram.data.spec import DatasetSpec
from imagegram.options import Options

# of tokenize_fast.py: the tokenizer never sees the held-out images
HELD_OUT_SHARE = Options.held_out_share
FEWEST = 20  # training images, and two held-out ones


@dataclass(frozen=True)
class Images:
    """One data set at the tokenizer's size."""

    name: str
    fingerprint: str  # of the data set, see data/dataset.py
    pixels: Tensor  # uint8 [N, 3, S, S]
    labels: Tensor  # int64 [N], -1 where there is none
    held_out: Tensor  # bool [N]
    image_column: str = ""  # of a table
    label_column: str = ""

    @property
    def training(self) -> Tensor:
        return self.pixels[~self.held_out]

    @property
    def unseen(self) -> Tensor:
        return self.pixels[self.held_out]

    def some_unseen(self, most: int) -> tuple[Tensor, Tensor]:
        """Held-out images uint8 [n, 3, S, S] and their labels [n], `most` of them chosen at random.

        The first ones would be of one class where a data set is sorted. The same for every call.
        """
        rows = _some(int(self.held_out.sum()), most)
        return self.unseen[rows], self.labels[self.held_out][rows]

    def some_training(self, most: int) -> Tensor:
        """Training images uint8 [n, 3, S, S], `most` of them chosen at random."""
        return self.training[_some(len(self.training), most)]

    @property
    def labelled(self) -> bool:
        """Whether every image has a label, and not all the same."""
        return bool((self.labels >= 0).all()) and len(self.labels.unique()) > 1


def _some(n: int, most: int) -> Tensor:
    """At most `most` of n, chosen at random, in order."""
    return torch.randperm(n, generator=torch.Generator().manual_seed(0))[:most].sort().values


def read_images(spec: DatasetSpec, size: int) -> Images:
    """Read a data set at `size` pixels; where it has more than `spec.images`, the sample that
    tokenizing takes. Images that cannot be read are left out; UserError where too few are left.
    """
    source = replace(spec, images=spec.images if spec.name == "shapes" else 0).open(size)
    source = replace(source, images=min(spec.images, source.size))
    print("\n".join(source.describe()))
    ordinals = source.ordinals

    # 1) Read. Bad images have no pixels.
    pixels = torch.zeros(len(ordinals), 3, size, size, dtype=torch.uint8)
    labels = torch.full((len(ordinals),), -1)
    readable = torch.zeros(len(ordinals), dtype=torch.bool)
    items = load_images(source, ordinals, size)
    bar = tqdm(items, total=len(ordinals), unit="img", desc=f"reading {source.name}")
    with worker_errors_as_user_errors():
        for row, (_, image, label, _) in enumerate(bar):
            if image is not None:
                pixels[row] = torch.from_numpy(image)
                labels[row] = label
                readable[row] = True

    # 2) Split as tokenizing does, by the place in the data set.
    out = torch.from_numpy(source.held_out(ordinals, HELD_OUT_SHARE))
    columns = source.image_column, source.label_column
    images = Images(
        source.name, source.fingerprint, pixels[readable], labels[readable], out[readable], *columns
    )
    bad = len(ordinals) - len(images.pixels)
    if bad:
        print(f"{source.name}: {bad} of {len(ordinals)} images cannot be read and are left out")
    if len(images.training) < FEWEST or len(images.unseen) < 2:
        raise UserError(
            f"{source.name} has {len(images.training)} images to train on and {len(images.unseen)} "
            f"held-out ones: at least {FEWEST} and 2 are needed"
        )
    return images


def jitter(images: Tensor, rng: torch.Generator) -> Tensor:
    """Turn (7 degrees), scale (10 %), shear and shift (2 pixels) images [B, 3, S, S] at random; the
    borders go on outside."""
    turn, size, shear, right, down = (torch.rand(len(images), 5, generator=rng) * 2 - 1).T
    angle, scale = turn * 0.12, 1 + size * 0.1
    cos, sin = angle.cos() * scale, angle.sin() * scale
    theta = torch.stack([cos, -sin + 0.1 * shear, 0.12 * right, sin, cos, 0.12 * down], 1)
    theta = theta.view(-1, 2, 3).to(images.device)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)
