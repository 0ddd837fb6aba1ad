"""The teacher: a classifier of the training images, whose features the tokenizer learns to predict.

It stands where FlexTok has DINOv2 (REPA, Yu et al., 2025, arXiv:2410.06940). Images without labels
are turned by 0, 90, 180 or 270 degrees, and the turn is what it learns to tell (Gidaris et al.,
2018, arXiv:1803.07728).
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from imagegram.files import atomic
from imagegram.metrics.coherence import Classifier, seen, shrunk, train_classifier
from training.images import Images

# images of each data set that the teacher is trained on; fewer are repeated, for balance
SHOWN = 30_000
MOST_STEPS = 1000
EACH = (0, 2, 3)  # what is averaged for each channel of a map


class Teacher(nn.Module):
    """Standardised features of a classifier of the training images; another one than measures it.

    Images [B, 3, S, S] in [-1, 1] -> what is where [B, 128, 8, 8], and what the image shows [B,
    256]. It sees them at 32 x 32 pixels.
    """

    mean: Tensor
    deviation: Tensor
    map_mean: Tensor
    map_deviation: Tensor

    def __init__(self, classes: int):
        super().__init__()
        self.net = Classifier(classes).eval()
        for name, size in (("", 256), ("map_", 128)):
            self.register_buffer(name + "mean", torch.zeros(size))
            self.register_buffer(name + "deviation", torch.ones(size))

    def _features(self, images: Tensor) -> tuple[Tensor, Tensor]:
        images = shrunk(images)
        # before the last pooling, and after it
        return self.net.body[:-1](images), self.net.features(images)

    @torch.no_grad()
    def standardise(self, images: Tensor) -> None:
        """Take means and deviations from images [N, 3, S, S]."""
        parts = tqdm(images.split(500), desc="features of the teacher", unit="batch", delay=3)
        maps, whole = (torch.cat(x) for x in zip(*map(self._features, parts), strict=True))
        self.mean, self.deviation = whole.mean(0), whole.std(0).clamp(min=1e-3)
        self.map_mean, self.map_deviation = maps.mean(EACH), maps.std(EACH).clamp(min=1e-3)

    @torch.no_grad()
    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        maps, whole = self._features(images)
        maps = (maps - self.map_mean[:, None, None]) / self.map_deviation[:, None, None]
        return maps.clamp(-4, 4), ((whole - self.mean) / self.deviation).clamp(-4, 4)


def load_teacher(
    data: Sequence[Images], path: Path, steps: int, seed: int, device: torch.device
) -> Teacher:
    """Train the teacher on the training parts of `data` for at most `steps`, or read it from
    `path`; on `device`."""
    parts, targets, classes = [], [], 0
    for images in data:
        shown, labels = _targets(images, seed)
        parts += shown.split(1000)
        targets.append(labels + classes)
        classes += int(labels.max()) + 1
    teacher = Teacher(classes)
    if path.exists():
        teacher.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        return teacher.to(device).eval()

    print("training the teacher", flush=True)
    pixels = torch.cat([seen(part) for part in parts]).to(device)
    labels = torch.cat(targets).to(device)
    teacher.to(device)
    teacher.net = train_classifier(pixels, labels, steps=min(steps, MOST_STEPS), seed=seed)
    teacher.standardise(pixels[:: max(1, len(pixels) // 5000)])
    with atomic(path) as temporary:
        torch.save(teacher.state_dict(), temporary)
    return teacher.eval()


def _targets(images: Images, seed: int) -> tuple[Tensor, Tensor]:
    """SHOWN training images, uint8 [n, 3, S, S], and what is to be told of them, int64 [n]."""
    pixels = images.training
    rng = torch.Generator().manual_seed(seed)
    rows = torch.randperm(len(pixels), generator=rng).repeat(-(-SHOWN // len(pixels)))[:SHOWN]
    if images.labelled:
        return pixels[rows], images.labels[~images.held_out][rows]
    turns = torch.randint(4, (len(rows),), generator=rng)
    both = zip(pixels[rows], turns.tolist(), strict=True)
    return torch.stack([torch.rot90(image, turn, (1, 2)) for image, turn in both]), turns
