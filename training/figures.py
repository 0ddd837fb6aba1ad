"""What a trained miniature can do: the figures of its card."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from imagegram.codec import Codec
from imagegram.codec.familiarity import codes_in_use, flat_errors, reconstruction_errors, typical
from imagegram.files import atomic
from imagegram.metrics.coherence import Classifier, seen, train_classifier
from imagegram.metrics.intervals import Figure, wilson
from imagegram.metrics.registry import FIGURES_VERSION
from training.images import Images
from training.losses import prefix_lengths

TRAINED_ON = 40_000  # at most so many training images train a classifier
CLASSIFIER_STEPS = (400, 1000)  # of a classifier of few images, and of many
MANY = 20_000  # training images
MEASURED = 400  # held-out images
FEWEST_JUDGED = 40  # held-out images: the accuracy of fewer says nothing
ENCODED = 5_000  # training images whose codes are counted
AT_ONCE = 256  # images


def load_classifier(images: Images, path: Path) -> Classifier:
    """A classifier of the training part of a labelled data set, at 32 x 32 pixels: read from `path`
    where one of the same images and settings is there, else kept there."""
    labels = images.labels[~images.held_out]
    classifier = Classifier(int(images.labels.max()) + 1)
    steps = CLASSIFIER_STEPS[len(labels) >= MANY]
    of = f"{images.fingerprint} {images.image_column} {images.label_column} {len(labels)}"
    key = f"{of} {steps} {TRAINED_ON} {FIGURES_VERSION}"
    kept = torch.load(path, weights_only=True) if path.exists() else {}
    if kept.get("key") != key:
        print(f"training the classifier of {images.name}", flush=True)
        rows = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))[:TRAINED_ON]
        pixels = torch.cat([seen(part) for part in images.training[rows].split(1000)])
        kept = {"key": key, "net": train_classifier(pixels, labels[rows], steps=steps).state_dict()}
        with atomic(path) as temporary:
            torch.save(kept, temporary)
    classifier.load_state_dict(kept["net"])
    return classifier.eval()


def encode(codec: Codec, images: Tensor) -> NDArray[np.uint16]:
    """Tokens [n, L] of images uint8 [n, 3, S, S]."""
    parts = tqdm(images.split(AT_ONCE), desc="tokenizing", unit="batch", delay=3)
    return np.concatenate([codec.encode(part) for part in parts])


def evaluate(codec: Codec, images: Images, kept: Path) -> dict[str, Any]:
    """Figures of one data set, on MEASURED held-out images, by a classifier that is `kept` there:

    error, error_95: of reconstructions, the median, and what 95 % stay below; flat: of flat
    pictures (codec/familiarity.py);
    real: accuracy of the classifier on the real images; relative_K: on reconstructions from K
    tokens, relative to it: Figures with Wilson's intervals, none of fewer than FEWEST_JUDGED
    images;
    codes_min, codes_median: codes that a position uses on ENCODED training images.
    """
    shown, labels = images.some_unseen(MEASURED)
    tokens = encode(codec, shown)
    errors = reconstruction_errors(codec, shown, tokens)
    figures: dict[str, Any] = {
        "training_images": float(len(images.training)),
        "images": float(len(shown)),
        "error": typical(errors),
        "error_95": round(float(np.quantile(errors, 0.95)), 2),
        "flat": typical(flat_errors(shown)),
    }

    if images.labelled and len(shown) >= FEWEST_JUDGED:
        classifier = load_classifier(images, kept)
        real = _accuracy(classifier, shown, labels)
        if real.value:
            figures["real"] = real
            bar = tqdm(prefix_lengths(len(tokens[0])), desc=f"judging {images.name}", unit="prefix")
            for k in bar:
                seeds = range(k * MEASURED, k * MEASURED + len(shown))
                rebuilt = codec.decode(tokens[:, :k], seeds, codec.timesteps, codec.guidance_scale)
                accuracy = _accuracy(classifier, rebuilt, labels)
                figures[f"relative_{k}"] = accuracy.scaled(1 / real.value)

    tokens = encode(codec, images.some_training(ENCODED))
    used = codes_in_use(tokens)
    codes = {"codes_min": float(min(used)), "codes_median": float(np.median(used))}
    return figures | codes | {"tokenized": float(len(tokens))}


def _accuracy(classifier: Classifier, images: Tensor, labels: Tensor) -> Figure:
    """Share of images uint8 [n, 3, S, S] whose label [n] the classifier tells."""
    told = classifier.probabilities(seen(images)).argmax(1) == labels
    return wilson(int(told.sum()), len(labels))


def evaluate_all(codec: Codec, data: Sequence[Images], folder: Path) -> dict[str, dict[str, Any]]:
    """The figures of every data set by name; classifiers are kept in `folder`."""
    return {
        images.name: evaluate(codec, images, folder / f"classifier_{number}.pt")
        for number, images in enumerate(data)
    }
