"""The whole experiment: tokenize -> index -> generate with several samplers -> one page with pictures and numbers.

    .venv/bin/python overnight_run.py                              # the digits (`make demo`): 1 to 3.5 min, two cores
    .venv/bin/python overnight_run.py --dataset shapes --images 20000 --out data/shapes
    .venv/bin/python overnight_run.py --dataset cifar10 --codec EPFL-VILAB/flextok_d18_d28_dfn --out data/cifar10

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
from typing import TYPE_CHECKING

from imagegram.cli import UserError, run_script, summary
from imagegram.sampling.settings import Settings

if TYPE_CHECKING:
    from imagegram.index.folder import Index
    from imagegram.report.runs import Run
    from imagegram.tokens import TokenFolder

SAMPLERS = {
    "kernel": Settings("kernel"),
    "kernel-half": Settings("kernel", step=0.5),  # half the step: nearer to the training images, more coherent
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
    # Imported here, so that --help need not wait for torch.
    from imagegram.index.build import build_index
    from imagegram.tokenizing import tokenize_dataset

    started = time.monotonic()

    print("1. Tokenize")
    tokens = tokenize_dataset(config.dataset, config.out / "tokens", config.codec, config.split, config.images)

    print("2. Build the index")
    index = build_index([tokens.path], config.out / "index_input", config.out / "index")

    print("3. Generate")
    runs = generate_all(config, tokens, index)

    summary(
        page=config.out / "report.html",
        grid=runs[0].path / "grid.png",
        report=runs[0].path / "report.json",
        seconds=round(time.monotonic() - started, 1),
    )


def generate_all(config: Config, tokens: "TokenFolder", index: "Index") -> "list[Run]":
    """Every sampler's images, and the page, which is written anew after each of them."""
    from imagegram.generating import Request, generate, open_codec
    from imagegram.measure.control import read_control
    from imagegram.measure.prediction import held_out_figures
    from imagegram.report.page import write_page
    from imagegram.report.runs import Run

    codec = open_codec(index)
    control = read_control(index)
    requests = {
        name: Request(settings, config.sequences, config.decoded, config.seed) for name, settings in SAMPLERS.items()
    }
    for request in requests.values():
        request.completed(index, codec).check(index)
    bits = held_out_figures(index, control, config.out / "bits.json")

    page = config.out / "report.html"
    runs: list[Run] = []
    failed: dict[str, str] = {}
    for number, (name, request) in enumerate(requests.items(), 1):
        out = config.out / "generated" / f"{name}-seed{config.seed}"
        print(f"sampler {number} of {len(requests)}, {name}: {request.settings.describe()}")
        try:
            result = generate(index, codec, control, request, out)
        except UserError as error:  # the others may still be made
            failed[name] = str(error)
            print(f"error: {name}: {error}", file=sys.stderr)
        else:
            print(f"{out}: {'generated' if result.new else 'finished before'}")
            runs.append(Run(name, request.settings, out, result.report["generated"]))
            measured = result.report.get("held_out", {})
        if runs:
            write_page(
                page,
                runs,
                manifest=tokens.manifest,
                training_images=index.num_images,
                held_out_images=len(control.tokens),
                control=measured,
                bits=bits,
                sequences=config.sequences,
                decoded=config.decoded,
                seed=config.seed,
                failed=failed,
            )
    if failed:
        made = f"{len(runs)} samplers are finished, see {page}" if runs else "no sampler is finished"
        raise UserError(f"{', '.join(failed)} failed, as said above; {made}; the same command tries again")
    return runs


if __name__ == "__main__":
    sys.exit(run_script(main, Config, __doc__))
