"""Sequences a second of every sampler, beside three ways to draw n-grams from Fastgram one sequence
at a time.

    python -m benchmarks.bench_sampling                    # 225,000 synthetic images of 256 tokens
    python -m benchmarks.bench_sampling --images 5000      # a small corpus of the same shape
    python -m benchmarks.bench_sampling --index data/index # an index at hand, such as the digits'

The three ways draw what the sampler `ntd` draws:

- ten contexts: the first experiments' loop. It asks Fastgram's `ntd()` for the longest context
  first, then for shorter ones until tokens follow, and draws from the dictionary that it answers.
- one ntd(): Fastgram shortens the context itself.
- one find(): Fastgram's `find()` answers with the range of matches in the suffix table, from which
  one is drawn; no dictionary is made. The context is at most a token longer than what matched
  before. The strongest of the three.

    python -m benchmarks.bench_sampling --shards 7  # one shard beside seven, 64,000 images

Prints a line for each: sequences a second, sequences a core-second (medians of `repeats`), and the
ratios of `ntd`'s sequences a core-second to theirs; then a `---` block. With --shards: sequences a
core-second of one shard and of so many, their ratio, and the peak of NumPy's arrays for eight
sequences.
"""

import functools
import random
import statistics
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.corpora import unrelated
from imagegram.cli import run_script, summary
from imagegram.index.build import build_index
from imagegram.index.engine import Engine
from imagegram.index.folder import Index
from imagegram.machine import cores
from imagegram.samplers import Aligned, Ntd, Smoothed
from imagegram.tokens import SEPARATOR, TERMINATOR
from tests.support.reference import ntd

Draw = Callable[[np.random.Generator], object]
CONTEXT = 10  # of the first experiments
SAMPLERS = {  # and how many sequences are drawn at a time
    "ntd, 100,000 at a time": (Ntd(context=CONTEXT), 100_000),
    "ntd, 2,000 at a time": (Ntd(context=CONTEXT), 2000),
    "aligned": (Aligned(context=2, min_images=2), 100_000),
    "smoothed": (Smoothed(context=2), 500),
}


SHARDED = (64_000, 64)  # images and tokens of the corpus in one shard and in several
OF_SHARDS = {  # and how many sequences are drawn at a time
    "ntd, 2,000 at a time": (Ntd(context=CONTEXT), 2000),
    "ntd, 10,000 at a time": (Ntd(context=CONTEXT), 10_000),
    "ntd, context 3, 10,000 at a time": (Ntd(context=3), 10_000),
    "aligned": (Aligned(context=2, min_images=2), 10_000),
    "smoothed": (Smoothed(context=2), 2000),
}


@dataclass
class Config:
    images: int = 225_000  # synthetic ones
    index: Path | None = None  # measured instead of them
    few_sequences: int = 20  # drawn one after another; the first ones find a cold cache
    repeats: int = 3
    shards: int = 0  # compared with one shard, in place of everything else


def drawn_from(follows: dict[int, int], rng: np.random.Generator) -> int:
    weights = np.array(list(follows.values()), float)
    return int(rng.choice(list(follows), p=weights / weights.sum()))


def ten_contexts(engine: Engine, n: int, rng: np.random.Generator) -> None:
    """The first experiments' way: one sequence, one token, one context after another."""
    for _ in range(n):
        text = [SEPARATOR]
        for _ in range(engine.index.tokens_per_image):
            for length in range(min(CONTEXT, len(text)), -1, -1):
                answer = engine.gram.ntd(text[len(text) - length :])["result_by_token_id"]
                follows = {t: v["cont_cnt"] for t, v in answer.items() if t < TERMINATOR}
                if follows:
                    break
            text.append(drawn_from(follows, rng))


def one_ntd(engine: Engine, n: int, rng: np.random.Generator) -> None:
    """One call of Fastgram's ntd() a token; it looks at 1,000 matches at most, as it does by
    default."""
    for _ in range(n):
        text = [SEPARATOR]
        for _ in range(engine.index.tokens_per_image):
            text.append(drawn_from(ntd(engine, text[-CONTEXT:], max_support=1000), rng))


def one_find(engine: Engine, n: int, rng: np.random.Generator) -> None:
    """One call of Fastgram's find() a token: a match is drawn from the range that it answers (of an
    index's one shard).

    A match that ends an image is drawn again, which is the distribution of those that do not.
    """
    (shard,) = engine.index.shards
    find = engine.core.find
    # a tenth of the time of NumPy's for a single number
    draw = random.Random(int(rng.integers(1 << 62))).randrange
    width = shard.table.shape[1]
    table = shard.table.data.cast("B")
    tokens = shard.tokens.data.cast("B").cast("H")
    for _ in range(n):
        text = [SEPARATOR]
        depth = 1
        while len(text) <= engine.index.tokens_per_image:
            ((low, high),) = find(text[len(text) - depth :]).segment_by_shard
            token = SEPARATOR
            for _ in range(100 if high > low else 0):
                entry = draw(low, high) * width
                byte = int.from_bytes(table[entry : entry + width], "little")
                token = tokens[min(byte // 2 + depth, len(tokens) - 1)]
                if token < TERMINATOR:
                    break
            if token >= TERMINATOR:
                depth -= 1
                continue
            text.append(token)
            depth = min(depth + 1, CONTEXT)


BASELINES = {"ten contexts": ten_contexts, "one ntd()": one_ntd, "one find()": one_find}


@dataclass(frozen=True)
class Rate:
    """Medians of several runs."""

    per_second: float
    per_core_second: float


def rate(draw: Draw, n: int, repeats: int) -> Rate:
    """How fast `draw` draws `n` sequences."""
    seconds = []
    core_seconds = []
    for seed in range(repeats):
        started = time.perf_counter()
        started_cores = time.process_time()
        draw(np.random.default_rng(seed))
        seconds.append(time.perf_counter() - started)
        core_seconds.append(time.process_time() - started_cores)
    return Rate(n / statistics.median(seconds), n / statistics.median(core_seconds))


def memory(draw: Draw) -> float:
    """The peak of NumPy's arrays, in MB."""
    draw(np.random.default_rng(0))  # what is made once
    tracemalloc.start()
    draw(np.random.default_rng(0))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak / 1e6


def compare_shards(folder: Path, shards: int, repeats: int) -> None:
    """One shard beside several, in turns."""
    images, length = SHARDED
    one = unrelated(folder, images, length)
    tokens, into = [folder / "tokens"], (folder / "input-shards", folder / "shards")
    several = build_index(tokens, *into, shard_images=-(-images // shards))
    both = one, several
    for name, (sampler, n) in OF_SHARDS.items():
        drawn = [functools.partial(sampler.sample, index, n) for index in both]
        turns = [[rate(draw, n, 1).per_core_second for draw in drawn] for _ in range(repeats)]
        first, second = np.median(turns, 0)
        less, more = (memory(functools.partial(sampler.sample, index, 8)) for index in both)
        speeds = f"{first:.4g} sequences a core-second with one shard, {second:.4g} with"
        ratio = f"{len(several.shards)}: {second / first:.2f}"
        print(f"{name}: {speeds} {ratio}; memory {less:.1f} and {more:.1f} MB", flush=True)


def main(config: Config) -> None:
    with tempfile.TemporaryDirectory() as folder:
        if config.shards:
            compare_shards(Path(folder), config.shards, config.repeats)
            return
        index = Index.open(config.index) if config.index else unrelated(Path(folder), config.images)
        engine = Engine(index)
        print(f"{index.num_images} images of {index.tokens_per_image} tokens, {cores()} cores")

        few = config.few_sequences
        ways: dict[str, tuple[Draw, int]] = {
            name: (functools.partial(way, engine, few), few) for name, way in BASELINES.items()
        }
        for name, (sampler, n) in SAMPLERS.items():
            ways[name] = functools.partial(sampler.sample, index, n), n
        rates: dict[str, Rate] = {}
        for name, (draw, n) in ways.items():
            rates[name] = rate(draw, n, config.repeats)
            fast = rates[name].per_core_second
            line = f"{name}: {rates[name].per_second:.4g} sequences/s, {fast:.4g} a core-second"
            if name in SAMPLERS:
                times = {way: fast / rates[way].per_core_second for way in BASELINES}
                line += "; " + ", ".join(f"{ratio:.3g} x {way}" for way, ratio in times.items())
            print(line, flush=True)
        summary(**{name: rate.per_second for name, rate in rates.items()})


if __name__ == "__main__":
    sys.exit(run_script(main, Config, __doc__))
