"""How much generated images look like real ones, by classifiers trained on held-out images.

All pictures are decoded from tokens, the real ones too, so that a classifier sees what was sampled
and not what the codec does. It tells the labels (one class where there are none) and one class
more, the *independent-token baseline*: images of tokens drawn independently of each other, each
from those at its position. Its score of an image is the largest probability of a real class.
Coherence is the mean score on a scale where held-out real images have 1 and the baseline has 0. A
classifier of labels alone would often be sure of the baseline, because the decoder repairs much.

Each of two classifiers is trained on one half of the held-out images and of the baseline, and asked
about the other. Density and coverage (Naeem et al., 2020, arXiv:2002.09797; k = 5) in a
classifier's feature space compare with one quarter of the held-out images, as another quarter is.
"""

import functools
import json
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.spatial.distance import cdist
from torch import Tensor, nn
from tqdm import tqdm, trange

from imagegram.codec import Codec
from imagegram.codec.decoding import Decoder
from imagegram.data.preprocess import to_signed
from imagegram.files import atomic
from imagegram.index.folder import Index
from imagegram.machine import has_bfloat16, single_threads
from imagegram.metrics.held_out import HeldOut
from imagegram.metrics.intervals import bootstrap, mean
from imagegram.metrics.registry import FIGURES_VERSION
from imagegram.metrics.sets import K, within

LEAST = 40  # held-out images: fewer say nothing
MOST = 400  # more are not decoded
STEPS = 150  # of its training
BATCH = 64
SEED = 0
SIDE = 32  # pixels that classifiers and teachers see
WIDEST = 2.0  # interval of coherence: a wider one says nothing, where 0 to 1 is all that is asked
Floats = NDArray[np.float64]
INITIAL_WEIGHTS = threading.Lock()  # drawn from torch's own generator, which threads share


def shrunk(images: Tensor) -> Tensor:
    """Images float [B, 3, S, S] -> [B, 3, SIDE, SIDE], means over areas."""
    return images if images.shape[2] == SIDE else F.interpolate(images, SIDE, mode="area")


def seen(images: Tensor) -> Tensor:
    """uint8 [n, 3, S, S] -> what a classifier sees: float [n, 3, SIDE, SIDE] in [-1, 1]."""
    return shrunk(to_signed(images))


class Classifier(nn.Module):
    """Of small images: three convolutional blocks, mean and max pooling, one linear layer."""

    def __init__(self, classes: int):
        super().__init__()
        layers: list[nn.Module] = []
        for c_in, c_out in ((3, 32), (32, 64), (64, 128)):
            convolution = nn.Conv2d(c_in, c_out, 3, padding=1)
            layers += [convolution, nn.BatchNorm2d(c_out), nn.ReLU(), nn.MaxPool2d(2)]
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


def train_classifier(
    images: Tensor,
    labels: Tensor,
    *,
    steps: int = 600,
    batch: int = 128,
    seed: int = 0,
    bar: tqdm | None = None,
) -> Classifier:
    """Train on images [N, 3, S, S] in [-1, 1] with labels [N], on their device; shifts of 2 pixels
    augment. bar: counts the steps of several that are trained; None: it has its own."""
    rng = torch.Generator().manual_seed(seed)
    with INITIAL_WEIGHTS, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        classifier = Classifier(int(labels.max()) + 1)
    # Channels last and bfloat16 halve the time of convolutions on a CPU; they learn as much.
    device = images.device.type
    layout = torch.channels_last if device == "cpu" else torch.contiguous_format
    half = device == "cpu" and has_bfloat16()
    classifier.to(images.device).to(memory_format=layout)
    optimizer = torch.optim.AdamW(classifier.parameters(), lr=2e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, steps)
    own = trange(steps, desc="training a classifier", unit="step", delay=3, disable=bar is not None)
    for _ in own:
        rows = torch.randint(len(images), (batch,), generator=rng)
        dy, dx = torch.randint(5, (2,), generator=rng).tolist()
        padded = F.pad(images[rows], (2, 2, 2, 2), mode="replicate")
        shifted = padded[:, :, dy : dy + images.shape[2], dx : dx + images.shape[3]]
        with torch.autocast(device, torch.bfloat16, enabled=half):
            logits = classifier(shifted.contiguous(memory_format=layout))
            loss = F.cross_entropy(logits, labels[rows], label_smoothing=0.05)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if bar is not None:
            bar.update()
    return classifier.to(memory_format=torch.contiguous_format).eval()  # as it is read again


class View(NamedTuple):
    """What one classifier makes of images."""

    scores: Floats  # [n]
    features: Floats  # [n, 256]


class Classifiers:
    """Two classifiers, and what they make of what they were not trained on, real and baseline."""

    def __init__(self, nets: list[Classifier], real: Tensor, baseline: Tensor, key: str = ""):
        self.nets = nets
        self.real_images = real
        self.baseline_images = baseline
        self.key = key
        self.real = self._views([real[1::2], real[::2]])
        self.baseline = self._views([baseline[1::2], baseline[::2]])

    @classmethod
    def train(cls, real: Tensor, labels: NDArray[np.int64], baseline: Tensor) -> "Classifiers":
        """Train on uint8 images [M, 3, S, S] with labels [M], all equal or not, and a baseline."""
        classes = torch.from_numpy(np.unique(labels, return_inverse=True)[1])

        def train(half: int) -> Classifier:
            images = seen(torch.cat([real[half::2], baseline[half::2]]))
            no_class = torch.full((len(baseline[half::2]),), int(classes.max()) + 1)
            known = torch.cat([classes[half::2], no_class])
            settings = {"steps": STEPS, "batch": BATCH, "seed": SEED + half}
            return train_classifier(images, known, bar=bar, **settings)

        with tqdm(total=2 * STEPS, desc="training the classifiers", unit="step", delay=3) as bar:
            return cls(_each(train, (0, 1)), real, baseline)

    @classmethod
    def load(cls, path: Path, key: str) -> "Classifiers | None":
        """Read what `save` wrote for the same `key`; None where there is none."""
        state: dict[str, Any] = torch.load(path, weights_only=True) if path.exists() else {}
        if state.get("key") != key:
            return None
        nets = []
        for weights in state["nets"]:
            net = Classifier(len(weights["head.weight"]))
            net.load_state_dict(weights)
            nets.append(net.eval())
        return cls(nets, state["real"], state["baseline"], key)

    def save(self, path: Path, key: str) -> None:
        """Write the classifiers and the images, for `load`."""
        self.key = key
        path.parent.mkdir(parents=True, exist_ok=True)
        images = {"real": self.real_images, "baseline": self.baseline_images}
        with atomic(path) as temporary:
            nets = [net.state_dict() for net in self.nets]
            torch.save({"key": key, "nets": nets} | images, temporary)

    def _views(self, images: list[Tensor]) -> list[View]:
        """What each classifier makes of its images, uint8 [n, 3, S, S]."""

        @torch.inference_mode()
        def view(which: int) -> View:
            net = self.nets[which]
            features = torch.cat([net.features(chunk) for chunk in seen(images[which]).split(256)])
            scores = net.head(features).softmax(1)[:, :-1].amax(1)
            return View(scores.double().numpy(), features.double().numpy())

        return _each(view, range(len(self.nets)))

    def measure(self, images: Tensor, rng: np.random.Generator) -> dict[str, dict[str, Any]]:
        """Figures of generated images uint8 [n, 3, S, S] and of the held-out ones: coherence,
        density, coverage.

        A coherence that `cannot_be_told` is left out, and the number of images said there instead.
        """
        views = self._views([images, images])
        real = np.concatenate([view.scores for view in self.real])
        baseline = np.concatenate([view.scores for view in self.baseline])
        scores = {"generated": np.mean([view.scores for view in views], 0), "held_out": real}
        # Every classifier, with every quarter of what it was not trained on as the reference,
        # beside the other quarter.
        inside: dict[str, list[NDArray[np.bool_]]] = {"generated": [], "held_out": []}
        for view, unseen in zip(views, self.real, strict=True):
            quarters = unseen.features[::2], unseen.features[1::2]
            for reference, other in (quarters, quarters[::-1]):
                inside["generated"].append(_inside(view.features, reference))
                inside["held_out"].append(_inside(other, reference))
        fewest = min(len(candidates) for both in inside.values() for candidates in both)
        figures = {who: _coherence(each, real, baseline, rng) for who, each in scores.items()}
        for who, parts in inside.items():
            dense = [candidates.mean(1) * candidates.shape[1] / K for candidates in parts]
            by_image = np.mean(dense, 0) if who == "generated" else np.concatenate(dense)
            figures[who]["density"] = mean(by_image, rng)
            # As many candidates each: more of them would cover more.
            covered = np.concatenate([candidates[:fewest].any(0) for candidates in parts])
            figures[who]["coverage"] = mean(covered, rng)
        return figures


def _each(work: Callable[[int], Any], parts: Iterable[int]) -> list[Any]:
    """`work` on each part in a thread of its own: no sum depends on how many threads there are."""
    with single_threads() as threads, ThreadPoolExecutor(threads) as pool:
        return list(pool.map(work, parts))


def _inside(candidates: Floats, reference: Floats) -> NDArray[np.bool_]:
    """Whether candidates [n, F] lie in the balls of reference points [m, F], see `within`."""
    return within(cdist(candidates, reference), cdist(reference, reference))


def _coherence(
    values: Floats, one: Floats, zero: Floats, rng: np.random.Generator
) -> dict[str, Any]:
    """The mean of `values` where that of `one` is 1 and of `zero` 0; bootstrap over all three."""

    def ratio(a: Floats, b: Floats, c: Floats) -> float:
        return float((a.mean() - c.mean()) / max(1e-9, b.mean() - c.mean()))

    figure = bootstrap(ratio, (values, one, zero), rng)
    too_wide = figure.high - figure.low > WIDEST
    return {"cannot_be_told": {"coherence": len(values)}} if too_wide else {"coherence": figure}


def classifier_key(codec: Codec, index: Index, held_out: HeldOut, length: int) -> str:
    """Everything that the classifiers for images of `length` tokens depend on, as JSON: not what
    changes the last digits of any figure, the versions of torch and of the processor."""
    settings = [FIGURES_VERSION, STEPS, BATCH, MOST, SIDE, SEED]
    decoded = [codec.name, codec.revision, codec.precision, codec.timesteps, codec.guidance_scale]
    inputs = {"index": index.identity, "held_out": held_out.content, "length": length}
    return json.dumps(inputs | {"settings": settings, "codec": decoded})


def chosen_rows(held_out: HeldOut, rng: np.random.Generator) -> NDArray[np.int64]:
    """The held-out images that the classifiers are trained on, at most MOST at random, in order."""
    return np.sort(rng.permutation(len(held_out.tokens))[:MOST])


@functools.lru_cache(maxsize=1)  # every sampler of a night asks for them
def _kept(path: Path, key: str, written: int) -> Classifiers | None:
    """What `Classifiers.load` reads from a file that was `written` at that time."""
    return Classifiers.load(path, key)


def open_classifiers(
    index: Index, held_out: HeldOut, codec: Codec, length: int
) -> Classifiers | None:
    """The classifiers for images of `length` tokens, kept beside the index; None where too few
    images are held out.

    They are trained on images as the codec decodes them by default, whatever the steps and the
    guidance of those that they are asked about: all figures of an index are on one scale.
    """
    if len(held_out.tokens) < LEAST:
        return None
    path = index.path.parent / f"{index.path.name}-classifiers-{length}.pt"
    key = classifier_key(codec, index, held_out, length)
    if path.exists() and (kept := _kept(path, key, path.stat().st_mtime_ns)):
        return kept
    rng = np.random.default_rng(SEED)
    chosen = chosen_rows(held_out, rng)
    rows = rng.integers(0, index.num_images, (len(chosen), length))
    on = f"{len(chosen)} held-out images (once for this index)"
    print(f"training the classifiers of coherence on {on}")
    decode = Decoder(codec)
    real = decode(held_out.tokens[chosen, :length])
    baseline = decode(index.tokens[rows, np.arange(length)])
    classifiers = Classifiers.train(real, held_out.classes[chosen], baseline)
    classifiers.save(path, key)
    return classifiers
