"""Pictures of generators that are none of this project's, for the measuring instrument: who of them copies?

    python -m experiments.other_generators data/others
    python -m imagegram.metrics pictures data/others/fifth.npz --training data/others/training.npz \
        --held-out data/others/held_out.npz --out data/others/fifth

scikit-learn's digits, cut into training images, held-out ones and `real`, which a perfect generator would draw. Then,
all fitted to the training images: `mixture` and `narrow` (scikit-learn's GaussianMixture with 20 and with 400
components, in 30 principal components), `autoencoder` (a small variational one), `noisy` (training images drawn again,
with noise), `fifth` (a fifth copies of them, else real images). Half a minute on one core.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.mixture import GaussianMixture
from torch import nn
from tqdm import trange

from imagegram.cli import run_script, summary
from imagegram.files import atomic

TRAINING, HELD_OUT = 800, 600  # images; what is left of 1,797 is `real`
SAMPLES = 300
STEPS = 1500  # of the autoencoder
LATENT = 8
NOISE = 0.08  # of the range of a pixel, of `noisy`
Floats = NDArray[np.float64]


@dataclass
class Config:
    out: Path = Path("data/others")
    seed: int = 0


def mixture(training: Floats, components: int, seed: int) -> Floats:
    """Samples of a Gaussian mixture in the principal components of images [N, 64]."""
    pca = PCA(30, random_state=seed).fit(training)
    model = GaussianMixture(components, covariance_type="diag", reg_covar=1e-4, random_state=seed)
    samples, _ = model.fit(pca.transform(training)).sample(SAMPLES)
    return pca.inverse_transform(samples)


def autoencoder(training: Floats, seed: int) -> Floats:
    """Samples of a variational autoencoder (Kingma & Welling, 2014) of images [N, 64]."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 2 * LATENT))
        decoder = nn.Sequential(nn.Linear(LATENT, 128), nn.ReLU(), nn.Linear(128, 64), nn.Sigmoid())
        optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], 2e-3)
        images = torch.tensor(training, dtype=torch.float32)
        for _ in trange(STEPS, desc="autoencoder", unit="step", delay=3):
            batch = images[torch.randint(len(images), (128,))]
            mean, log_scale = encoder(batch).chunk(2, 1)
            drawn = decoder(mean + log_scale.exp() * torch.randn_like(mean))
            loss = (50 * (drawn - batch).square()).sum(1) + (mean.square() + (2 * log_scale).exp() - 1).sum(1) / 2
            loss = (loss - log_scale.sum(1)).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.inference_mode():
            return decoder(torch.randn(SAMPLES, LATENT)).double().numpy()


def main(config: Config) -> None:
    rng = np.random.default_rng(config.seed)
    digits = load_digits().data[rng.permutation(1797)] / 16
    training, held_out, real = np.split(digits, [TRAINING, TRAINING + HELD_OUT])
    copies = training[rng.choice(TRAINING, SAMPLES, replace=False)]
    sets = {
        "training": training,
        "held_out": held_out,
        "real": real[:SAMPLES],
        "mixture": mixture(training, 20, config.seed),
        "narrow": mixture(training, 400, config.seed),
        "autoencoder": autoencoder(training, config.seed),
        "noisy": copies + NOISE * rng.standard_normal(copies.shape),
        "fifth": np.concatenate([copies[: SAMPLES // 5], real[: SAMPLES - SAMPLES // 5]]),
    }
    config.out.mkdir(parents=True, exist_ok=True)
    for name, images in sets.items():
        with atomic(config.out / f"{name}.npz") as temporary, temporary.open("wb") as f:
            np.savez(f, images=(255 * images.clip(0, 1)).round().astype(np.uint8).reshape(-1, 8, 8))
    summary(out=config.out, sets=", ".join(sets))


if __name__ == "__main__":
    sys.exit(run_script(main, Config, __doc__))
