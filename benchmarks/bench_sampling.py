"""Sequences a second of every sampler, against the loop that the first experiments used.

    python -m benchmarks.bench_sampling                    # 225,000 synthetic images of 256 tokens
    python -m benchmarks.bench_sampling --images 5000      # a small corpus of the same shape
    python -m benchmarks.bench_sampling --index data/index # an index at hand, such as the digits'

The loop asks Fastgram for ten contexts, the longest first, as Python dictionaries, and draws with numpy. Prints a
line a sampler: sequences a second (median of `repeats`) and the ratio to the loop, and a `---` block.
"""

import functools
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from imagegram.cli import run_script, summary
from imagegram.index.build import build_index
from imagegram.index.engine import Engine
from imagegram.index.folder import Index
from imagegram.machine import cores
from imagegram.sampling.sampler import sample
from imagegram.sampling.settings import Settings
from imagegram.tokens import SEPARATOR, TERMINATOR, Manifest, TokenFolder

LEVELS = (8, 8, 8, 5, 5, 5)  # FlexTok's, 64,000 codes
LENGTH = 256
CONTEXT = 10  # of the first experiments
SAMPLERS = {  # and how many sequences are drawn at a time
    "ntd": (Settings("ntd", CONTEXT), 100_000),
    "aligned": (Settings("aligned", 2, 2), 100_000),
    "smoothed": (Settings("smoothed", 2), 500),
    "soft": (Settings("soft", neighbours=20), 128),
}


@dataclass
class Config:
    images: int = 225_000  # synthetic ones
    index: Path | None = None  # measured instead of them
    loop_sequences: int = 20  # drawn by the loop, one after another; the first ones find a cold cache
    repeats: int = 3


def synthetic(folder: Path, images: int) -> Index:
    """An index of `images` sequences, each token from a few that are common at its position or from all."""
    rng = np.random.default_rng(0)
    common = rng.integers(0, 64_000, (LENGTH, 2000))
    manifest = Manifest(
        dataset="synthetic",
        split="train",
        fingerprint="0",
        images=images,
        codec="synthetic",
        revision="0",
        precision="none",
        tokens_per_image=LENGTH,
        vocab_size=64_000,
        levels=LEVELS,
        image_size=256,
        preprocessing="none",
        held_out_share=0.0,
        shard_size=25_000,
    )
    tokens = TokenFolder.create(folder / "tokens", manifest)
    for shard in range(tokens.shards):
        n = len(tokens.range(shard))
        ranks = (2000 * rng.random((n, LENGTH)) ** 3).astype(np.int64)
        rows = np.where(
            rng.random((n, LENGTH)) < 0.9, common[np.arange(LENGTH), ranks], rng.integers(0, 64_000, (n, LENGTH))
        )
        tokens.write(shard, rows, np.zeros(n, np.int64), {}, 1.0)
    return build_index([folder / "tokens"], folder / "input", folder / "index", "numpy")


def loop(index: Index, n: int, rng: np.random.Generator) -> None:
    """The first experiments' way: one sequence, one token, one context after another."""
    engine = Engine(index)
    for _ in range(n):
        text = [SEPARATOR]
        for _ in range(index.tokens_per_image):
            for length in range(min(CONTEXT, len(text)), -1, -1):
                answer = engine.ntd(text[len(text) - length :])["result_by_token_id"]
                follows = {t: v["cont_cnt"] for t, v in answer.items() if t < TERMINATOR}
                if follows:
                    break
            weights = np.array(list(follows.values()), float)
            text.append(int(rng.choice(list(follows), p=weights / weights.sum())))


def rate(draw: Callable[[np.random.Generator], object], n: int, repeats: int) -> float:
    """Sequences a second, the median."""
    seconds = []
    for seed in range(repeats):
        started = time.perf_counter()
        draw(np.random.default_rng(seed))
        seconds.append(time.perf_counter() - started)
    return n / statistics.median(seconds)


def draw(index: Index, settings: Settings, n: int, rng: np.random.Generator) -> None:
    """Our way, with nothing known from an earlier call."""
    sample(index, settings, n, rng)


def main(config: Config) -> None:
    with tempfile.TemporaryDirectory() as folder:
        index = Index.open(config.index) if config.index else synthetic(Path(folder), config.images)
        few = config.loop_sequences
        base = rate(lambda rng: loop(index, few, rng), few, config.repeats)
        print(f"{index.num_images} images of {index.tokens_per_image} tokens, {cores()} cores")
        print(f"loop: {base:.4g} sequences/s, one at a time")
        rates = {}
        for name, (settings, n) in SAMPLERS.items():
            rates[name] = rate(functools.partial(draw, index, settings, n), n, config.repeats)
            print(f"{name}: {rates[name]:.4g} sequences/s, {n} at a time, {rates[name] / base:.4g} times the loop")
        summary(loop=base, **rates)


if __name__ == "__main__":
    sys.exit(run_script(main, Config, __doc__))
