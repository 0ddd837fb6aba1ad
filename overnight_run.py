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

import shlex
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from imagegram.cli import UserError, run_script, summary
from imagegram.sampling.settings import Settings

if TYPE_CHECKING:
    from imagegram.index.folder import Index
    from imagegram.report.night import Night
    from imagegram.tokens import TokenFolder

# What each of them teaches, from copying to chaos.
SAMPLERS = {
    "kernel": Settings("kernel"),  # the default: near contexts vote, in a metric fitted to the training images
    "kernel-near": Settings("kernel", step=0.7),  # smaller steps: more coherent, nearer to the training images
    "soft": Settings("soft", neighbours=20),  # one of the twenty nearest prefixes gives the next token
    "aligned": Settings("aligned", context=2),  # the same two tokens at the same place, in two images at least
    "smoothed": Settings("smoothed", context=2),  # the same, smoothed: all that two tokens of context can tell
    "ntd": Settings("ntd", context=2),  # plain infini-gram with a short context: stitches
    "ntd-long": Settings("ntd", context=10),  # the longest context of the first experiments: copies
    "unigram": Settings("aligned", context=0),  # every position on its own: chaos
}
STRIPS = 8  # sequences of each that are decoded from their first 1, 2, 4, ... tokens as well


@dataclass
class Config:
    dataset: str = "digits"  # what tokenize_fast.py takes
    split: str = ""  # of a data set that has splits; "": train
    images: int = 0  # the first so many images; 0: all (of shapes: 20,000)
    image_column: str = ""  # "": found by type and name, as in tokenize_fast.py
    label_column: str = ""
    codec: str = "tiny"
    out: Path = Path("data/demo")
    sequences: int = 1000  # sampled and measured for each sampler
    decoded: int = 64  # of these, decoded
    seed: int = 0


def main(config: Config) -> None:
    # Imported here, so that --help need not wait for torch.
    from imagegram.index.build import build_index
    from imagegram.tokenizing import Options, tokenize_dataset

    started = time.monotonic()

    print("1. Tokenize")
    options = Options(
        codec=config.codec,
        split=config.split,
        images=config.images,
        image_column=config.image_column,
        label_column=config.label_column,
    )
    tokens = tokenize_dataset(config.dataset, config.out / "tokens", options)

    print("2. Build the index")
    index = build_index([tokens.path], config.out / "index_input", config.out / "index")

    print("3. Generate")
    night = generate_all(config, tokens, index)

    first = night.folder(config.out, next(iter(SAMPLERS)))
    summary(
        page=config.out / "report.html",
        grid=first / "grid.png",
        report=first / "report.json",
        seconds=round(time.monotonic() - started, 1),
    )


def generate_all(config: Config, tokens: "TokenFolder", index: "Index") -> "Night":
    """Every sampler's images, and the page, which is written anew after each of them."""
    from imagegram.generating import Request, generate, open_codec, reconstruct_held_out
    from imagegram.measure.control import read_control
    from imagegram.measure.prediction import held_out_figures
    from imagegram.report.night import HELD_OUT, Night
    from imagegram.report.page import Sources, write_page
    from imagegram.report.thumbnails import Originals

    codec = open_codec(index)
    control = read_control(index)
    requests = {
        name: Request(settings, config.sequences, config.decoded, config.seed, strips=STRIPS)
        for name, settings in SAMPLERS.items()
    }
    for request in requests.values():
        request.completed(index, codec).check(index)
    held_out_figures(index, control, config.out / "bits.json")

    night = Night(
        command=shlex.join(["overnight_run.py", *sys.argv[1:]]),
        sequences=config.sequences,
        decoded=config.decoded,
        seed=config.seed,
        samplers={name: asdict(settings) for name, settings in SAMPLERS.items()},
    )
    sources = Sources(config.out, night, index, control, Originals([tokens]))
    shown = Request(Settings(), config.decoded, config.decoded, config.seed)
    reconstruct_held_out(index, codec, control, shown, night.folder(config.out, HELD_OUT))
    for number, (name, request) in enumerate(requests.items(), 1):
        out = night.folder(config.out, name)
        print(f"sampler {number} of {len(requests)}, {name}: {request.settings.describe()}")
        started = time.monotonic()
        try:
            result = generate(index, codec, control, request, out)
        except UserError as error:  # the others may still be made
            night.failed[name] = str(error)
            print(f"error: {name}: {error}", file=sys.stderr)
        else:
            print(f"{out}: {'generated' if result.new else 'finished before'}")
            if result.new:
                night.seconds[name] = round(time.monotonic() - started, 1)
        night.write(config.out)
        page = write_page(sources)
    if night.failed:
        made = night.finished(config.out)
        finished = f"{len(made)} samplers are finished, see {page}" if made else "no sampler is finished"
        raise UserError(f"{', '.join(night.failed)} failed, as said above; {finished}; the same command tries again")
    return night


if __name__ == "__main__":
    sys.exit(run_script(main, Config, __doc__))
