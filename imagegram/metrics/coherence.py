"""How much generated images look like real ones, by judges trained on images that the index never saw.

All pictures are decoded from tokens, the real ones too, so that a judge sees what was sampled and not what the codec
does. A judge is a small classifier of the labels (of one class where there are none) and of one class more, *chaos*:
images whose tokens are drawn independently of each other, each from those at its position. Its score of an image is the
largest probability of a real class. Coherence is the mean score on a scale where held-out real images have 1 and chaos
has 0. A classifier of labels alone would be sure of many a chaotic image, because the decoder repairs much.

There are two judges, each trained on one half of the held-out images and of the chaos. The control never meets a judge
that was trained on it. Density and coverage (Naeem et al., 2020, arXiv:2002.09797; k = 5) in a judge's feature space
compare with a quarter of the held-out images, and the control with that quarter is another quarter.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial.distance import cdist
from torch import Tensor

from imagegram.data.preprocess import to_signed
from imagegram.files import atomic
from imagegram.index.folder import Index
from imagegram.metrics.classifier import Classifier, shrunk, train_classifier
from imagegram.metrics.held_out import Control
from imagegram.metrics.intervals import Figure, bootstrap, mean

LEAST = 40
MOST = 400  # held-out images: fewer say nothing, more are not decoded
STEPS = 150  # of its training
K = 5  # neighbours, of density and coverage
Floats = NDArray[np.float64]


def _seen(images: Tensor) -> Tensor:
    """uint8 [n, 3, S, S] -> what a judge sees: float [n, 3, 32, 32] in [-1, 1]."""
    return shrunk(to_signed(images))


@dataclass(frozen=True)
class View:
    """What one judge makes of images: scores [n] and features [n, 256]."""

    scores: Floats
    features: Floats


class Judges:
    """Two judges and what they make of the real images and of the chaos that they were not trained on."""

    def __init__(self, nets: list[Classifier], real: Tensor, chaos: Tensor):
        self.nets = nets
        self.real, self.chaos = ([self._view(net, x[1 - i :: 2]) for i, net in enumerate(nets)] for x in (real, chaos))

    @classmethod
    def train(cls, real: Tensor, labels: NDArray[np.int64], chaos: Tensor, seed: int = 0) -> "Judges":
        """Train on uint8 images [M, 3, S, S] with their labels [M] (all equal where there are none) and chaos."""
        classes = torch.from_numpy(np.unique(labels, return_inverse=True)[1])
        nets = []
        for half in (0, 1):
            known = torch.cat([classes[half::2], torch.full((len(chaos[half::2]),), int(classes.max()) + 1)])
            images = _seen(torch.cat([real[half::2], chaos[half::2]]))
            nets.append(train_classifier(images, known, STEPS, batch=64, seed=seed + half))
        return cls(nets, real, chaos)

    @classmethod
    def load(cls, path: Path, key: str) -> "Judges | None":
        """Read what `save` wrote for the same `key`; None where there is none."""
        state: dict[str, Any] = torch.load(path, weights_only=True) if path.exists() else {}
        if state.get("key") != key:
            return None
        nets = []
        for weights in state["nets"]:
            net = Classifier(len(weights["head.weight"]))
            net.load_state_dict(weights)
            nets.append(net.eval())
        return cls(nets, state["real"], state["chaos"])

    def save(self, path: Path, key: str, real: Tensor, chaos: Tensor) -> None:
        """Write the judges and the images, for `load`."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic(path) as temporary:
            nets = [net.state_dict() for net in self.nets]
            torch.save({"key": key, "nets": nets, "real": real, "chaos": chaos}, temporary)

    @staticmethod
    @torch.inference_mode()
    def _view(net: Classifier, images: Tensor) -> View:
        features = torch.cat([net.features(chunk) for chunk in _seen(images).split(256)])
        scores = net.head(features).softmax(1)[:, :-1].amax(1)
        return View(scores.double().numpy(), features.double().numpy())

    def measure(self, images: Tensor, rng: np.random.Generator) -> dict[str, dict[str, Figure]]:
        """Figures of generated images uint8 [n, 3, S, S] and of the control: coherence, density, coverage."""
        views = [self._view(net, images) for net in self.nets]
        generated = np.mean([view.scores for view in views], 0)
        real, chaos = (np.concatenate([view.scores for view in both]) for both in (self.real, self.chaos))
        figures = {"coherence": _scaled(generated, real, chaos, rng)}
        control = {"coherence": _scaled(real, real, chaos, rng)}
        # Every judge, with every quarter of what it was not trained on as the reference and the other as the control.
        inside: dict[str, list[NDArray[np.bool_]]] = {"generated": [], "held_out": []}
        for view, held_out in zip(views, self.real, strict=True):
            for swap in (0, 1):
                reference = held_out.features[swap::2]
                other = held_out.features[1 - swap :: 2]
                inside["generated"].append(_inside(view.features, reference))
                inside["held_out"].append(_inside(other, reference))
        fewest = min(len(candidates) for both in inside.values() for candidates in both)
        for who, into in (("generated", figures), ("held_out", control)):
            dense = [candidates.mean(1) * candidates.shape[1] / K for candidates in inside[who]]
            into["density"] = mean(np.mean(dense, 0) if who == "generated" else np.concatenate(dense), rng)
            # As many candidates each: more of them would cover more.
            into["coverage"] = mean(np.concatenate([candidates[:fewest].any(0) for candidates in inside[who]]), rng)
        return {"generated": figures, "held_out": control}


def _inside(candidates: Floats, reference: Floats) -> NDArray[np.bool_]:
    """Whether each candidate [n, F] lies in each reference point's ball [m, F], which ends at its K-th neighbour."""
    within = cdist(reference, reference)
    radii = np.partition(within, K, axis=1)[:, K]  # itself is the nearest
    return cdist(candidates, reference) <= radii


def _scaled(values: Floats, one: Floats, zero: Floats, rng: np.random.Generator) -> Figure:
    """The mean of `values` where the mean of `one` is 1 and that of `zero` is 0; bootstrap over all three."""

    def ratio(a: Floats, b: Floats, c: Floats) -> float:
        return float((a.mean() - c.mean()) / max(1e-9, b.mean() - c.mean()))

    return bootstrap(ratio, (values, one, zero), rng)


def open_judges(
    index: Index, control: Control, decode: Callable[[NDArray[np.uint16]], Tensor], length: int
) -> Judges | None:
    """The judges for images of `length` tokens, trained on what `decode` makes of the control's tokens, and kept
    beside the index, keyed by its hash; None where too few images are held out."""
    if len(control.tokens) < LEAST:
        return None
    path = index.path.parent / f"{index.path.name}-judges-{length}.pt"
    key = f"{index.identity} {length}"
    if judges := Judges.load(path, key):
        return judges
    rng = np.random.default_rng(0)
    chosen = np.sort(rng.permutation(len(control.tokens))[:MOST])
    rows = rng.integers(0, index.num_images, (len(chosen), length))
    print(f"training the judges of coherence on {len(chosen)} held-out images (once for this index)")
    real = decode(control.tokens[chosen, :length])
    chaos = decode(index.tokens[rows, np.arange(length)])
    judges = Judges.train(real, control.labels[chosen], chaos)
    judges.save(path, key, real, chaos)
    return judges
