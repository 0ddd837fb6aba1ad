"""Does more data cure memorization? Exact copy rates, held-out bits and coherence of the samplers against the corpus.

    .venv/bin/python -m experiments.scaling_study --quick    # scenes up to 4,000 and the digits: 3 min on two cores
    .venv/bin/python -m experiments.scaling_study            # the same up to a million scenes: 80 min
    .venv/bin/python -m experiments.scaling_study --datasets digits shapes fashion_mnist cifar10

The predictions that it tests stand in docs/hypotheses.md, the findings in docs/scaling.md. Writes into data/scaling/:
NAME/tokens and the indexes of its corpora, points/ (one file for each point, so that the same command goes on where it
was stopped), results.csv (all points in one table), and the plots. Prints

    ---
    results: data/scaling/results.csv
    points: 41
    seconds: 171.3
"""

import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from imagegram.cli import OmitArgPrefixes, run_script, summary
from imagegram.data.dataset import DatasetOptions
from imagegram.data.spec import DatasetSpec

if TYPE_CHECKING:
    from experiments.scaling.corpora import Data
    from experiments.scaling.run import Task

SIZES = (1_000, 4_000, 16_000, 64_000, 256_000, 1_000_000)  # training images of the corpora of scenes
SCENES = 1_120_000  # made and tokenized: a tenth is held out
QUICK_SIZES = (1_000, 4_000)
QUICK_SCENES = 14_000
COHERENT_SIZES = (1_000, 16_000, 256_000, 1_000_000)  # whose samples are decoded
PREDICTED_FROM = 1_600  # images: the P(copy) of such corpora is predicted from a tenth of them
CODECS = {"fashion_mnist": "fashion"}  # data sets with a codec of their own; --codec for all others
DUPLICATES_SIZE = 16_000  # images of the corpus that holds some of them several times


@dataclass
class Config:
    datasets: tuple[str, ...] = ("digits", "shapes")  # what tokenize_fast.py takes; shapes: the procedural scenes
    each: OmitArgPrefixes[DatasetOptions] = DatasetOptions()  # of the data sets that are not shapes
    scenes: int = SCENES  # made and tokenized; sizes that they do not reach are left out
    codec: str = "tiny"
    out: Path = Path("data/scaling")
    quick: bool = False  # scenes up to 4,000, for a look in three minutes
    neural: Path = Path("docs/neural_reference.json")  # of experiments/neural_reference.py: drawn where it is there


def main(config: Config) -> None:
    # Imported here, so that --help need not wait for torch.
    from experiments.scaling.corpora import load
    from experiments.scaling.plots import draw_all
    from experiments.scaling.run import KINDS, Runner, write_results
    from imagegram.artifact import Artifact
    from overnight.plan import folder_names

    started = time.monotonic()
    Artifact(config.out, "study").claim()

    print("1. Tokenize")
    scenes = QUICK_SCENES if config.quick else config.scenes
    data = {}
    for name, folder in zip(config.datasets, folder_names(config.datasets), strict=True):
        codec = CODECS.get(Path(name).name, config.codec)
        spec = DatasetSpec("shapes", images=scenes) if name == "shapes" else DatasetSpec.of_each([name], config.each)[0]
        data[folder] = load(spec, config.out, codec, folder)

    print("2. Measure the points")
    tasks = [task for one in data.values() for task in plan(one, config.quick)]
    tasks.sort(key=lambda task: (KINDS.index(task.kind), task.images))  # exact answers first
    Runner(config.out, data).run(tasks)

    print("3. Collect and draw")
    results = write_results(config.out, tasks)
    draw_all(config.out, results, config.neural)
    if config.quick:
        shutil.rmtree(config.out / "indexes", ignore_errors=True)
    summary(results=config.out / "results.csv", points=len(tasks), seconds=round(time.monotonic() - started, 1))


def plan(data: "Data", quick: bool) -> "list[Task]":
    """The points of a data set."""
    from experiments.scaling.corpora import sizes
    from experiments.scaling.run import Task

    scenes = data.name == "shapes"
    tasks = []
    for images in sizes(data, QUICK_SIZES if quick else SIZES):
        corpora = 1 if quick else data.corpora(images)
        tasks += [Task(data.name, kind, images, n) for kind in ("counts", "bits", "kernel") for n in range(corpora)]
        if images >= PREDICTED_FROM:
            tasks.append(Task(data.name, "law", images, 0))
        if scenes and images == (max(QUICK_SIZES) if quick else DUPLICATES_SIZE):
            tasks.append(Task(data.name, "duplicates", images, 0))
        if scenes and images in COHERENT_SIZES and not quick:
            tasks += [Task(data.name, "coherence", images, corpus) for corpus in range(corpora)]
    return tasks


if __name__ == "__main__":
    sys.exit(run_script(main, Config, __doc__))
