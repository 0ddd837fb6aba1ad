"""A small classifier of real images, the judge of reconstructions and of generated images."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import trange

SIDE = 32  # pixels that judges and teachers see


def shrunk(images: Tensor) -> Tensor:
    """Images float [B, 3, S, S] -> [B, 3, SIDE, SIDE], means over areas."""
    return images if images.shape[2] == SIDE else F.interpolate(images, SIDE, mode="area")


class Classifier(nn.Module):
    """Convolutional classifier of small images: three conv blocks, mean and max pooling, one linear layer."""

    def __init__(self, classes: int):
        super().__init__()
        layers: list[nn.Module] = []
        for c_in, c_out in ((3, 32), (32, 64), (64, 128)):
            layers += [nn.Conv2d(c_in, c_out, 3, padding=1), nn.BatchNorm2d(c_out), nn.ReLU(), nn.MaxPool2d(2)]
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(256, classes)

    def features(self, images: Tensor) -> Tensor:
        """Images [B, 3, S, S] in [-1, 1] -> features [B, 256]."""
        x = self.body(images)
        return torch.cat([x.mean((2, 3)), x.amax((2, 3))], 1)

    def forward(self, images: Tensor) -> Tensor:
        """Images [B, 3, S, S] in [-1, 1] -> logits [B, classes]."""
        return self.head(self.features(images))

    @torch.inference_mode()
    def probabilities(self, images: Tensor, batch: int = 256) -> Tensor:
        """Class probabilities [N, classes] of images [N, 3, S, S] in [-1, 1]."""
        return torch.cat([self(chunk.clamp(-1, 1)).softmax(1) for chunk in images.split(batch)])


def train_classifier(images: Tensor, labels: Tensor, steps: int = 600, batch: int = 128, seed: int = 0) -> Classifier:
    """Train on real images [N, 3, S, S] in [-1, 1] with labels [N], on their device; shifts of 2 pixels augment."""
    rng = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        judge = Classifier(int(labels.max()) + 1).to(images.device)
    optimizer = torch.optim.AdamW(judge.parameters(), lr=2e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, steps)
    for _ in trange(steps, desc="training a classifier", unit="step", delay=3):
        rows = torch.randint(len(images), (batch,), generator=rng)
        dy, dx = torch.randint(5, (2,), generator=rng).tolist()
        padded = F.pad(images[rows], (2, 2, 2, 2), mode="replicate")
        shifted = padded[:, :, dy : dy + images.shape[2], dx : dx + images.shape[3]]
        loss = F.cross_entropy(judge(shifted), labels[rows], label_smoothing=0.05)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return judge.eval()
