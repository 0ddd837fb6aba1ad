"""Running the points of the scaling study, each once, and collecting them into one table."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from experiments.common import write_table
from experiments.scaling import points
from experiments.scaling.corpora import Data, open_index
from experiments.scaling.points import Row
from imagegram.artifact import Artifact
from imagegram.codec import Codec, load_codec
from imagegram.codec.decoding import Decoder
from imagegram.files import read_json, write_json
from imagegram.metrics.coherence import MOST, Classifiers
from imagegram.metrics.registry import FIGURES_VERSION
from imagegram.samplers import Kernel

FORMAT = 2  # one more with every change of the code that changes a point
COLUMNS = ["dataset", "images", "corpus", "sampler", "context", "quantity", "value", "low", "high"]
KINDS = ("counts", "law", "duplicates", "bits", "kernel", "coherence")  # of points, in the order they are measured


@dataclass(frozen=True)
class Task:
    """One point: what is measured (one of KINDS) of which corpus."""

    dataset: str
    kind: str
    images: int
    corpus: int

    @property
    def name(self) -> str:
        return f"{self.dataset}-{self.images}-{self.corpus}-{self.kind}"


@dataclass
class Runner:
    """Measures points into `out`/points, and keeps what they share."""

    out: Path
    data: dict[str, Data]
    classifiers: dict[str, tuple[Codec, Classifiers]] = field(default_factory=dict)

    def run(self, tasks: list[Task]) -> None:
        """Measure every point that is not finished, with a bar over those that are left."""
        with Artifact(self.out, "study").lock():
            missing = [task for task in tasks if read_point(self.out, task, self.key(task)) is None]
            print(f"{len(tasks) - len(missing)} of {len(tasks)} points are finished")
            bar = tqdm(missing, unit="point")
            for task in bar:
                bar.set_description(task.name)
                started = time.monotonic()
                rows = list(self.measure(task))
                seconds = round(time.monotonic() - started, 2)
                file = point_file(self.out, task)
                file.parent.mkdir(exist_ok=True)
                write_json(file, {"key": self.key(task), "seconds": seconds, "rows": rows})

    def key(self, task: Task) -> dict[str, Any]:
        """All that a point depends on, beside the images and the corpus, which stand in its name."""
        data = self.data[task.dataset]
        return {
            "tokens": data.folder.contents(),
            "corpus": data.digest(task.images, task.corpus),
            "format": FORMAT,
            "figures": FIGURES_VERSION,
            "kernel": Kernel.version,
        }

    def measure(self, task: Task) -> Iterator[Row]:
        """The rows of a point."""
        data = self.data[task.dataset]
        tokens = data.corpus(task.images, task.corpus)
        if task.kind == "counts":
            return points.counts_point(tokens)
        if task.kind == "duplicates":
            return points.duplicates_point(tokens)
        if task.kind == "law":
            return points.law_point(tokens)
        place = self.out / "indexes" / f"{task.dataset}-{task.images}-{task.corpus}"
        index = open_index(data, task.images, task.corpus, place)
        if task.kind == "bits":
            return points.bits_point(index, data.held_out)
        if task.kind == "kernel":
            return points.kernel_point(index, data.held_out)
        return points.coherence_point(index, *self.classifiers_of(data))

    def classifiers_of(self, data: Data) -> tuple[Codec, Classifiers]:
        """The codec and the classifiers of a data set's images, the same for all its corpora."""
        if data.name not in self.classifiers:
            codec = load_codec(data.codec)
            rng = np.random.default_rng(0)
            real = data.held_out[:MOST]
            baseline = data.training[rng.integers(0, len(data.training), real.shape), np.arange(real.shape[1])]
            labels = data.held_out_labels[:MOST].astype(np.int64)
            classifiers = Classifiers.train(Decoder(codec)(real), labels, Decoder(codec)(baseline))
            self.classifiers[data.name] = codec, classifiers
        return self.classifiers[data.name]


def point_file(out: Path, task: Task) -> Path:
    return out / "points" / f"{task.name}.json"


def read_point(out: Path, task: Task, key: dict[str, Any]) -> dict[str, Any] | None:
    """A finished point of the same key; None where it has to be measured."""
    file = point_file(out, task)
    point: dict[str, Any] = read_json(file) if file.exists() else {}
    return point if point.get("key") == key else None


def write_results(out: Path, tasks: list[Task]) -> pd.DataFrame:
    """All points in one table, `out`/results.csv: COLUMNS; returned as well.

    corpus is its number; value, low, high: the figure and its 95 % interval, empty where it is exact.
    """
    rows = []
    for task in tasks:
        point = read_json(point_file(out, task))
        of = {"dataset": task.dataset, "images": task.images, "corpus": task.corpus}
        rows += [of | each for each in (*point["rows"], points.row(task.kind, 0, "seconds_point", point["seconds"]))]
    return write_table(out / "results.csv", pd.DataFrame(rows, columns=COLUMNS), digits=5)
