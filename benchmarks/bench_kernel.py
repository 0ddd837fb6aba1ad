"""Where the time of the kernel sampler goes.

    python -m benchmarks.bench_kernel                      # 225,000 scenes as 256 tokens
    python -m benchmarks.bench_kernel --corpus unrelated   # images with nothing in common
    python -m benchmarks.bench_kernel --index data/index   # an index at hand
    python -m benchmarks.bench_kernel --folder data/bench  # keeps corpus and fit

After the first tokens of some training images an image is drawn for the next one. Printed is the
time that each operation of it takes for a sequence, and so the sequences a second; with --drawn N
also how many sequences a second the sampler makes, of N, the median of three times. On a GPU where
there is one.
"""

import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch.profiler import ProfilerActivity, _ExperimentalConfig, profile

from benchmarks.bench_sampling import rate
from benchmarks.corpora import CORPORA
from imagegram.cli import UserError, run_script, summary
from imagegram.index.folder import Index
from imagegram.machine import cores, single_threads
from imagegram.samplers import Kernel
from imagegram.samplers.kernel.fit import open_kernel
from imagegram.samplers.kernel.model import digits_of
from imagegram.samplers.kernel.votes import ATTEMPTS, Library

NAME = 60  # letters of an operation's
CLOCK = "by the clock"  # beside the operations, whose seconds are those of all threads


@dataclass
class Config:
    corpus: str = "frequencies"  # or unrelated
    images: int = 225_000  # of it
    folder: Path | None = None  # where it is kept; None: nowhere
    index: Path | None = None  # measured instead of it
    sequences: int = 256  # drawn together
    tokens: int = 12  # positions that stand for all of them
    drawn: int = 0  # sequences that the sampler draws; 0: none


def open_corpus(config: Config, folder: Path) -> Index:
    """The index that is measured, made in `folder` unless it is there."""
    if config.index:
        return Index.open(config.index)
    if config.corpus not in CORPORA:
        raise UserError(f"unknown corpus {config.corpus!r}: one of {', '.join(CORPORA)}")
    if (folder / "index").exists():
        return Index.open(folder / "index")
    return CORPORA[config.corpus](folder, config.images)


@torch.inference_mode()
def profile_token(library: Library, position: int, queries: torch.Tensor) -> dict[str, float]:
    """Draw the images of a token: the seconds of each operation."""
    everywhere = _ExperimentalConfig(profile_all_threads=True)
    gpu = library.device.type == "cuda"
    uniform = torch.rand((len(queries), ATTEMPTS, 3), dtype=torch.float64, device=library.device)
    activity = ProfilerActivity.CUDA if gpu else ProfilerActivity.CPU
    with (
        profile(activities=[activity], experimental_config=everywhere) as profiled,
        single_threads(),
    ):
        started = time.perf_counter()
        library.draw(position, queries, uniform)
        if gpu:
            torch.cuda.synchronize()
        taken = time.perf_counter() - started
    seconds: dict[str, float] = defaultdict(float, {CLOCK: taken})
    for each in profiled.key_averages():
        own = each.self_device_time_total if gpu else each.self_cpu_time_total
        seconds[each.key[:NAME]] += own / 1e6
    return seconds


def measure(config: Config, index: Index) -> None:
    """Print the table of operations and the summary."""
    started = time.monotonic()
    model = open_kernel(index)
    fit_seconds = time.monotonic() - started
    length = index.tokens_per_image
    gpu = model.codes.device.type == "cuda"
    where = torch.cuda.get_device_name() if gpu else f"{cores()} cores"
    print(f"{index.num_images} images of {length} tokens, {where}")

    n = min(config.sequences, index.num_images)
    rows = np.linspace(0, index.num_images - 1, n).astype(np.int64)
    queries = digits_of(index.tokens[rows], index.levels, model.codes.device)
    library = Library(index.tokens, model)
    positions = np.unique(np.geomspace(2, length, config.tokens).round().astype(int)) - 1
    taken = [profile_token(library, position, queries) for position in positions.tolist()]

    # Tokens in between take what lies between.
    whole = {}
    for name in sorted({name for seconds in taken for name in seconds}):
        seconds = [each.get(name, 0.0) for each in taken]
        whole[name] = np.interp(np.arange(length), positions, seconds).sum() / n
    clock = whole.pop(CLOCK)
    print(f"\nmilliseconds a sequence of all threads, {n} at a time")
    for name in sorted(whole, key=lambda name: -whole[name])[:10]:
        share = whole[name] / sum(whole.values())
        print(f"  {name:<{NAME}} {1000 * whole[name]:10.4g}  {share:4.0%}")
    projected = sum(len(model.projections[model.row(position)]) for position in range(length))
    rates = {}
    if config.drawn:
        drawn = rate(partial(Kernel().sample, index, config.drawn), config.drawn, repeats=3)
        rates["drawn_per_second"] = drawn.per_second
    summary(
        sequences_per_second=1 / clock,
        **rates,
        billion_products_a_sequence=projected * index.num_images / 1e9,
        votes_a_sequence=length * index.num_images,
        fit_seconds=fit_seconds,
    )


def main(config: Config) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        measure(config, open_corpus(config, config.folder or Path(temporary)))


if __name__ == "__main__":
    sys.exit(run_script(main, Config, __doc__))
