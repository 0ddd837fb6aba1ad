"""The codecs on a CPU: the miniature alone and beside two busy processes; the linear codec.

    python -m benchmarks.bench_codec                # about 5 minutes

1. Images a second of tokenizing and decoding, in processes of their own that take turns: *now* is
   what the scripts do: OpenMP's threads sleep while they wait, each core takes a few images by
   itself, and decodes in bfloat16 where the processor has it; *before* is PyTorch as it comes:
   threads spin (OMP_WAIT_POLICY unset), all of them share every operation of one large batch. The
   medians of `rounds`, and their ratio; once with nothing beside them that this program knows of,
   once with two processes that count for ever.
2. The linear codec, 64 tokens of emoji at 64 and 128 pixels: images a core-second, medians of
   `rounds`, and how much of that is the one matrix product that each direction needs.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from experiments.common import print_head, print_row
from imagegram.cli import run_script
from imagegram.codec import miniatures
from imagegram.codec.linear import features
from imagegram.codec.linear_fit import open_linear, training_images
from imagegram.codec.tiny import TinyCodec
from imagegram.data.preprocess import to_signed
from imagegram.data.spec import DatasetSpec
from imagegram.machine import has_bfloat16

ROOT = Path(__file__).parents[1]
DECODED = 16  # images
TOKENIZED = 512
MODES = ("now", "before")
FITTED = 1_000  # images of the linear codec


@dataclass
class Config:
    rounds: int = 3
    worker: str = ""
    """now | before: measure one of them and print its rates (what this program starts)"""


def measure(mode: str) -> dict[str, float]:
    """Images a second of one way."""
    codec = TinyCodec(miniatures.SHIPPED / "tiny", "tiny")
    rng = np.random.default_rng(0)
    images = torch.from_numpy(rng.integers(0, 256, (TOKENIZED, 3, 32, 32), np.uint8))
    tokens = rng.integers(0, codec.vocab_size, (DECODED, codec.tokens_per_image))
    few = tokens.astype(np.uint16)
    rows = list(torch.from_numpy(tokens).split(1))
    tokenize, decode = {
        "now": (
            lambda: codec.encode(images),
            lambda: codec.decode(few, range(DECODED), 10, 2.5),
        ),
        "before": (
            lambda: codec.model.tokenize(to_signed(images)),
            lambda: codec.model.detokenize(rows, 10, 2.5, torch.Generator()),
        ),
    }[mode]
    rates = {"threads": float(torch.get_num_threads())}
    codec.encode(images[:8])
    for name, work, count in (("tokenize", tokenize, TOKENIZED), ("decode", decode, DECODED)):
        started = time.perf_counter()
        work()
        rates[name] = count / (time.perf_counter() - started)
    return rates


def in_own_process(mode: str) -> dict[str, float]:
    """The same in a process whose OpenMP is as the mode wants it: it is set when PyTorch is
    imported, once."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OMP_")}
    first = "imagegram" if mode == "now" else "torch"  # the package says how torch's threads wait
    module = "benchmarks.bench_codec"
    program = f"import {first}, runpy; runpy.run_module({module!r}, run_name='__main__')"
    command = [sys.executable, "-c", program, "--worker", mode]
    said = subprocess.check_output(command, cwd=ROOT, env=environment, text=True)
    return json.loads(said.splitlines()[-1])


def under_load(rounds: int) -> None:
    """Print the first table."""
    print("| | other busy processes | before, img/s | now, img/s | times |")
    print_row(*["---"] * 5)
    for busy in (0, 2):
        beside = [subprocess.Popen([sys.executable, "-c", "while 1: pass"]) for _ in range(busy)]
        try:
            runs = [{mode: in_own_process(mode) for mode in MODES} for _ in range(rounds)]
        finally:
            for process in beside:
                process.kill()
                process.wait()
        for work in ("tokenize", "decode"):
            now, before = (statistics.median(run[mode][work] for run in runs) for mode in MODES)
            print_row(work, busy, f"{before:.1f}", f"{now:.1f}", f"{now / before:.2f}")
    bfloat16 = "yes" if has_bfloat16() else "no"
    print(f"\nthreads: {runs[0]['now']['threads']:.0f}, bfloat16: {bfloat16}\n")


def core_seconds(rounds: int, work: Callable[[], object]) -> float:
    """The median of `rounds`, after one that does not count."""
    found = []
    for _ in range(rounds + 1):
        started = time.process_time()
        work()
        found.append(time.process_time() - started)
    return statistics.median(found[1:])


def linear(size: int, rounds: int) -> None:
    """Print a row of the second table."""
    data = [DatasetSpec("emoji", images=FITTED).open(size)]
    images = torch.from_numpy(training_images(data, 0.1, size)[:TOKENIZED])
    with tempfile.TemporaryDirectory() as folder, threadpool_limits(1):
        codec = open_linear(f"linear:size={size}", data, 0.1, Path(folder))
        tokens = codec.encode(images)
        sums = features(images.numpy()).astype(np.float64)
        coefficients = codec.coefficients(tokens)
        cells = []
        for whole, product in (
            (lambda: codec.encode(images), lambda: sums @ codec.basis.T),
            (lambda: codec.decode(tokens), lambda: coefficients @ codec.basis),
        ):
            seconds = core_seconds(rounds, whole)
            share = core_seconds(rounds, product) / seconds
            cells += [f"{len(images) / seconds:.0f}", f"{share:.0%}"]
    print_row(size, *cells)


def main(config: Config) -> None:
    if config.worker:
        print(json.dumps(measure(config.worker)))
        return
    under_load(config.rounds)
    print()
    of_it = "of it the product"
    print_head("pixels", "encode, img a core-second", of_it, "decode", of_it)
    for size in (64, 128):
        linear(size, config.rounds)


if __name__ == "__main__":
    sys.exit(run_script(main, Config, __doc__))
