"""What a corpus costs: seconds, core-seconds and peak memory of its index and of drawing from it.

Each step runs in a process of its own, so that its peak is its own: it includes PyTorch and, as far as they were read,
the pages of the index's files.
"""

import resource
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from experiments.scaling.corpora import Data, open_index
from experiments.scaling.points import Row, row
from imagegram.index.folder import Index, verify_index
from imagegram.samplers import Aligned, Kernel, Ntd, Sampler

DRAWN = (
    ("ntd", 3, Ntd(context=3), 10_000),
    ("aligned", 2, Aligned(context=2, min_images=2), 10_000),
    ("kernel", 0, Kernel(), 64),
)


def index_cost(data: Data, images: int, corpus: int, place: Path) -> Iterator[Row]:
    """Rows of building the index of a corpus in the folder `place`, which is removed, and of proving it once more."""
    shutil.rmtree(place, ignore_errors=True)
    yield from _rows("index", 0, *alone(open_index, data, images, corpus, place))
    yield from _rows("verify", 0, *alone(verify_index, place / "index"))
    shutil.rmtree(place)


def drawing_cost(index: Index) -> Iterator[Row]:
    """Rows of drawing sequences from an opened index: 10,000 by counts, 64 by the kernel, whose metric is fitted."""
    for name, context, sampler, n in DRAWN:
        yield from _rows(name, context, *alone(_draw, index.path, sampler, n), times=n)


def _draw(path: Path, sampler: Sampler, n: int) -> None:
    sampler.sample(Index.open(path), n, np.random.default_rng(0))


def _rows(step: str, context: int, seconds: float, core_seconds: float, peak: int, times: int = 1) -> Iterator[Row]:
    """Quantities named after how many sequences were drawn."""
    drawn = f"_{times}" if times > 1 else ""
    yield row(step, context, f"seconds{drawn}", seconds)
    yield row(step, context, f"core_seconds{drawn}", core_seconds)
    yield row(step, context, f"peak_gb{drawn}", peak / 1e9)


def alone(work: Callable[..., object], *arguments: object) -> tuple[float, float, int]:
    """Do some work in a fresh process: seconds, core-seconds, and the most bytes of memory that it held at a time."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_measured, work, arguments).result()


def _measured(work: Callable[..., object], arguments: tuple[Any, ...]) -> tuple[float, float, int]:
    core_before = _core_seconds()
    started = time.perf_counter()
    work(*arguments)
    seconds = time.perf_counter() - started
    peak = max(_peak(), resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)  # of the children the largest one's
    return seconds, _core_seconds() - core_before, peak * 1024


def _peak() -> int:
    """The most memory that this process held, in KiB. (ru_maxrss would begin with that of the process it came from.)"""
    lines = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines["VmHWM"].split()[0])


def _core_seconds() -> float:
    """Of this process and of the children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)
