"""The whole experiment: tokenize -> index -> generate with several samplers -> one page with pictures and numbers.

    python overnight_run.py                                         # the digits (`make demo`): 1 to 3.5 min, two cores
    python overnight_run.py --dataset shapes --images 20000 --out data/shapes
    python overnight_run.py --dataset cifar10 --codec EPFL-VILAB/flextok_d18_d28_dfn --out data/cifar10

Every step is skipped where it is finished, so that the same command goes on after a crash, and a sampler added to
SAMPLERS costs only itself. Ends with the page's place:

    ---
    page: data/demo/report.html
    ...
"""

import sys
import time
from dataclasses import dataclass
from pathlib import Path

from imagegram.cli import run_script, summary
from imagegram.generating import generate, held_out_figures
from imagegram.index.build import build_index
from imagegram.report.sheets import Run, write_page
from imagegram.sampling.settings import Settings
from imagegram.tokenizing import tokenize_dataset

SAMPLERS = {
    "soft": Settings("soft", neighbours=20),
    "soft-4": Settings("soft", neighbours=4),
    "soft-2": Settings("soft", neighbours=2),
    "soft-first": Settings("soft", neighbours=4, emphasis=0.5),  # the first tokens count most
    "aligned": Settings("aligned", context=2, min_images=2),
    "aligned-anchored": Settings("aligned", context=2, min_images=2, anchor=1),
    "aligned-single": Settings("aligned", context=2, min_images=1),
    "smoothed": Settings("smoothed", context=2),
    "ntd": Settings("ntd", context=2),
    "ntd-long": Settings("ntd", context=10),  # the longest context of the first experiments
    "unigram": Settings("aligned", context=0),  # every position on its own
}


@dataclass
class Config:
    dataset: str = "digits"  # what tokenize_fast.py takes
    split: str = "train"
    images: int = 0  # the first so many images; 0: all (of shapes: 20,000)
    codec: str = "tiny"
    out: Path = Path("data/demo")
    sequences: int = 1000  # sampled and measured for each sampler
    decoded: int = 64  # of these, decoded
    seed: int = 0


def main(config: Config) -> None:
    started = time.monotonic()

    print("1. Tokenize")
    tokens = tokenize_dataset(config.dataset, config.out / "tokens", config.codec, config.split, config.images)

    print("2. Build the index")
    index = build_index([tokens.path], config.out / "index_input", config.out / "index")

    print("3. Generate")
    runs = []
    for name, settings in SAMPLERS.items():
        out = config.out / "generated" / f"{name}-seed{config.seed}"
        result = generate(index.path, out, settings, config.sequences, config.decoded, config.seed)
        print(f"{out}: {'generated' if result.new else 'finished before'}")
        runs.append(Run(name, settings, out, result.report["generated"]))

    print("4. Report")
    page = config.out / "report.html"
    write_page(
        page,
        runs,
        manifest=tokens.manifest,
        training_images=index.num_images,
        held_out_images=result.report["held_out_images"],
        control=result.report.get("held_out", {}),
        bits=held_out_figures(index, config.out / "bits.json"),
        sequences=config.sequences,
        decoded=config.decoded,
        seed=config.seed,
    )
    summary(
        page=page,
        grid=runs[0].path / "grid.png",
        report=runs[0].path / "report.json",
        seconds=round(time.monotonic() - started, 1),
    )


if __name__ == "__main__":
    sys.exit(run_script(main, Config, __doc__))
