"""The whole experiment: tokenize -> index -> generate with several samplers -> one page.

    .venv/bin/python overnight_run.py                  # the digits (`make demo`): 1 to 4 min
    .venv/bin/python overnight_run.py --dataset shapes --images 20000 --out data/shapes
    .venv/bin/python overnight_run.py --dataset digits shapes --out data/both  # in one index
    .venv/bin/python overnight_run.py --dry-run        # what would be done, and what is finished
    .venv/bin/python overnight_run.py --hours 8        # the sweep as well, until 8 hours are over

Every step is skipped where it is finished, so that the same command goes on after a crash, and a
sampler added to SAMPLERS costs only itself. A sampler that fails is named at the end, and the
others are finished. Everything said is in night.log as well, with its time: start it in tmux, or
with nohup, and go to bed. Ends with the page's place:

    ---
    page: data/demo/report.html
    ...
"""

import math
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from imagegram.cli import OmitArgPrefixes, UserError, run_script
from imagegram.codec.sizes import chosen
from imagegram.data.dataset import DatasetOptions
from imagegram.data.spec import DatasetSpec
from imagegram.samplers import Aligned, Kernel, Ntd, Sampler, Smoothed
from imagegram.samplers.draw import Draw
from overnight.plan import Plan, constants, folder_names, say_plan, sweep

# All of them go into one index, or with --separate into one each.
DATASETS: tuple[DatasetSpec, ...] = (DatasetSpec("digits"),)

with constants(__file__):
    # What each of them teaches, from new images to copies, and to independent tokens.
    SAMPLERS: dict[str, Sampler | Draw] = {
        "kernel": Kernel(),  # the default: near images give their tokens, moved by a fitted model
        # smaller moves: nearer to the training images, no more coherent
        "kernel-near": Kernel(step=0.85),
        # the same two tokens at the same position, in two images at least
        "aligned": Aligned(context=2),
        # the same, smoothed: all that two tokens of context can tell
        "smoothed": Smoothed(context=2),
        "ntd": Ntd(context=2),  # plain infini-gram with a short context: stitches
        "ntd-long": Ntd(context=10),  # the longest context of the first experiments: copies
        "unigram": Aligned(context=0),  # every position on its own
    }

    # What --hours adds, in random order until they are over, without what SAMPLERS has.
    SWEEP = {
        **sweep(Kernel, step=(0.5, 0.85, 1.2), temperature=(0.8, 0.9, 1.0)),
        **sweep(Aligned, context=(1, 2, 3, 4), min_images=(1, 2, 5)),
        **sweep(Smoothed, context=(1, 3), top_p=(0.9, 1.0)),
        **sweep(Ntd, context=(1, 3, 4, 6), top_k=(0, 5)),
        **sweep(Kernel, length=(2, 4, 8)),  # the decoder fills in the rest
        **sweep(Kernel, prompt=(1, 4)),  # completes held-out images from their first tokens
    }

PREFIXES = 8  # sequences of each that are decoded from their first 1, 2, 4, ... tokens as well

# The first experiments' own night, for a GPU with the package flextok and a connection to the hub:
# 225,000 images. DATASETS = ( DatasetSpec("food101"), DatasetSpec("Maysee/tiny-imagenet"),
# DatasetSpec("cifar100", label_column="fine_label"), ) .venv/bin/python overnight_run.py --codec
# EPFL-VILAB/flextok_d18_d28_dfn --hours 8 \ --out data/first-night


@dataclass
class Config:
    dataset: tuple[str, ...] = ()
    """what tokenize_fast.py takes, one or several; none: those of DATASETS"""
    each: OmitArgPrefixes[DatasetOptions] = DatasetOptions()
    separate: bool = False
    """an index and a page for each data set, in a folder of its own below OUT"""
    codec: str = ""  # what tokenize_fast.py takes; "": tiny, or linear for emoji
    out: Path = Path("data/demo")
    sequences: int = 1000  # sampled and measured for each sampler
    decoded: int = 64  # of these, decoded
    seed: int = 0  # the same seed draws the same sequences and pictures
    hours: float = 0.0
    """also run SWEEP, and begin no sampler after that time; 0: SAMPLERS and nothing else"""
    dry_run: bool = False  # print counts, disk, memory and what is finished, and do nothing


def main(config: Config) -> None:
    plans = make_plans(config)
    for plan in plans:
        plan.check()
    if config.dry_run:
        for plan in plans:
            say_plan(plan)
        return

    failed = []
    for plan in plans:
        try:
            run_night(plan)
        except UserError as error:
            if len(plans) == 1:
                raise
            failed.append(f"{plan.out}: {error}")  # the other data sets are finished all the same
            print(f"error: {failed[-1]}", file=sys.stderr)
    if failed:
        raise UserError("; ".join(failed))


def make_plans(config: Config) -> list[Plan]:
    """One plan for all data sets together, or one for each of them."""
    given = {name: value for name, value in asdict(config.each).items() if value}
    data = tuple(replace(one, **given) for one in DATASETS)
    if config.dataset:
        data = DatasetSpec.of_each(config.dataset, config.each)
    together = Plan(
        out=config.out,
        data=data,
        codec=chosen(config.codec, [one.name for one in data]),
        samplers=SAMPLERS,
        sweep=SWEEP,
        sequences=config.sequences,
        decoded=config.decoded,
        prefixes=PREFIXES,
        seed=config.seed,
        hours=config.hours,
    )
    if not config.separate:
        return [together]
    names = folder_names([one.name for one in data])
    return [
        replace(
            together, out=config.out / name, data=(one,), codec=chosen(config.codec, [one.name])
        )
        for name, one in zip(names, data, strict=True)
    ]


def run_night(plan: Plan) -> None:
    """Tokenize, index, generate; UserError names what failed when everything else is finished."""
    from overnight.begin import begin

    deadline = time.monotonic() + 3600 * (plan.hours or math.inf)
    with begin(plan) as night:
        if night.complete:
            return
        # Imported here, so that --help and a finished night need not wait for torch.
        from overnight.night import generate_all, index_all, tokenize_all

        print("1. Tokenize")
        folders = tokenize_all(plan, night)
        print("2. Build the index")
        index = index_all(plan, night, folders)
        print("3. Generate")
        generate_all(plan, night, folders, index, deadline)


if __name__ == "__main__":
    sys.exit(run_script(main, Config, __doc__))
