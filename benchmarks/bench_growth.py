"""How each step grows with the images, the tokens of an image and the sequences, beside what the machine could do.

    python -m benchmarks.bench_growth                # 4 minutes

Every step runs at three sizes of one thing, the two others fixed, on synthetic tokens (corpora.py). Printed are
core-seconds, which other processes hardly change, and the exponent e of size ** e, fitted to their logarithms; for the
samplers also the bytes of memory that an image of the index costs (the peak of NumPy's arrays).

Then the limits of this machine on one core: copying memory, reading at random places of as many numbers as the index
has tokens, products of float32 and of bfloat16 matrices. And how near the steps come to what bounds each of them:

- the index: two random reads a suffix to put its entry in its place, at least, and two of the proof.
- ntd: a token is read from a random place, and so is the entry of the table that names it.
- aligned, smoothed: an image's place in the order is followed at every position: a random read an image and position,
  shared by all sequences.
- kernel: every image is compared with every digit's context; its metric is fitted in a single step here.
- tokenizing, decoding: the products of matrices alone, counted by PyTorch.
"""

import contextlib
import functools
import io
import shutil
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.corpora import unrelated
from imagegram.cli import run_script
from imagegram.codec import load_codec
from imagegram.codec.tiny import TinyCodec
from imagegram.data.preprocess import to_signed
from imagegram.index.build import build_index
from imagegram.index.folder import Index
from imagegram.index.table import verify_table
from imagegram.machine import choose_device, has_bfloat16
from imagegram.samplers import Aligned, Kernel, Ntd, Smoothed
from imagegram.samplers.kernel.fit import open_kernel

SAMPLERS = {  # and how many sequences are drawn, where that is not what grows
    "ntd": (Ntd(context=10), 8000),
    "aligned": (Aligned(context=2, min_images=2), 8000),
    "smoothed": (Smoothed(context=2), 1000),
    "kernel": (Kernel(), 64),
}


@dataclass
class Config:
    images: tuple[int, ...] = (16_000, 64_000, 256_000)
    kernel_images: tuple[int, ...] = (4_000, 16_000, 64_000)
    tokens: tuple[int, ...] = (32, 128, 512)
    kernel_tokens: tuple[int, ...] = (32, 64, 128)
    factors: tuple[int, ...] = (1, 4, 16)  # of the sequences above
    usual_images: int = 16_000  # where something else grows
    usual_tokens: int = 64


def core_seconds(work: Callable[[], object]) -> float:
    """Of one run; the best of two where it is short."""
    best = float("inf")
    for _ in range(2):
        started = time.process_time()
        work()
        best = min(best, time.process_time() - started)
        if best > 5:
            break
    return best


def exponent(sizes: tuple[int, ...], seconds: list[float]) -> float:
    """The slope of the logarithms."""
    return float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])


def row(step: str, grows: str, sizes: tuple[int, ...], seconds: list[float]) -> None:
    """Print one row of the table of growth."""
    shown = " / ".join(f"{size:,}" for size in sizes)
    costs = " / ".join(f"{cost:.3g}" for cost in seconds)
    print(f"| {step} | {grows} | {shown} | {costs} | {exponent(sizes, seconds):.2f} |", flush=True)


def rebuild(index: Index) -> None:
    """Build an index once more."""
    place = index.path.parent
    shutil.rmtree(place / "again", ignore_errors=True)
    with contextlib.redirect_stdout(io.StringIO()):
        build_index([place / "tokens"], place / "again_input", place / "again", "divsufsort")


def draw(index: Index, name: str, factor: int = 1) -> None:
    sampler, n = SAMPLERS[name]
    sampler.sample(index, factor * n, np.random.default_rng(0))


def memory(index: Index, name: str) -> float:
    """Peak bytes of arrays while a few sequences are drawn, for every image of the index."""
    tracemalloc.start()
    SAMPLERS[name][0].sample(Index.open(index.path), 8, np.random.default_rng(0), length=40)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak / index.num_images


def growth(config: Config, folder: Path) -> tuple[Index, Index]:
    """Print the table of growth; returns the largest index, and that of the kernel."""
    print("| step | what grows | sizes | core-seconds | exponent |\n| --- | --- | --- | --- | --- |")
    by_images = [unrelated(folder / f"images-{n}", n, config.usual_tokens) for n in config.images]
    by_tokens = [unrelated(folder / f"tokens-{n}", config.usual_images, n) for n in config.tokens]
    row("index, proved", "images", config.images, [core_seconds(functools.partial(rebuild, i)) for i in by_images])
    row(
        "index, proved",
        "tokens an image",
        config.tokens,
        [core_seconds(functools.partial(rebuild, i)) for i in by_tokens],
    )
    for name in SAMPLERS:
        if name != "kernel":
            sampler_growth(name, config.images, by_images, config.tokens, by_tokens, config.factors)
    few_images = [unrelated(folder / f"kernel-{n}", n, config.usual_tokens) for n in config.kernel_images]
    few_tokens = [unrelated(folder / f"kernel-tokens-{n}", config.usual_images, n) for n in config.kernel_tokens]
    sampler_growth("kernel", config.kernel_images, few_images, config.kernel_tokens, few_tokens, config.factors)
    codec_growth(config.factors)
    print()
    for name in SAMPLERS:
        if name != "kernel":  # its arrays are PyTorch's
            print(f"{name}: {memory(by_images[-1], name):.0f} bytes of memory an image", flush=True)
    return by_images[-1], few_images[-1]


def sampler_growth(
    name: str,
    images: tuple[int, ...],
    by_images: list[Index],
    tokens: tuple[int, ...],
    by_tokens: list[Index],
    factors: tuple[int, ...],
) -> None:
    """Print the rows of a sampler."""
    for index in (*by_images, *by_tokens):
        if name == "kernel":
            open_kernel(index, choose_device(), steps=1)
        SAMPLERS[name][0].sample(index, 1, np.random.default_rng(0), length=1)  # warms the disk
    row(name, "images", images, [core_seconds(functools.partial(draw, index, name)) for index in by_images])
    row(name, "tokens an image", tokens, [core_seconds(functools.partial(draw, index, name)) for index in by_tokens])
    costs = [core_seconds(functools.partial(draw, by_tokens[1], name, factor)) for factor in factors]
    row(name, "sequences", tuple(factor * SAMPLERS[name][1] for factor in factors), costs)


def codec_growth(factors: tuple[int, ...]) -> None:
    """Print the rows of the embedded codec, whose images are all of one size."""
    codec = load_codec("tiny")
    rng = np.random.default_rng(0)
    few = [torch.from_numpy(rng.integers(0, 256, (64 * n, 3, 32, 32), np.uint8)) for n in factors]
    rows = list(codec.encode(few[0][:8])) * max(factors)
    codec.decode(rows[:8], list(range(8)), codec.timesteps, codec.guidance_scale)  # warms up
    costs = [core_seconds(functools.partial(codec.encode, images)) for images in few]
    row("tokenizing", "images", tuple(map(len, few)), costs)
    some = [rows[: 8 * n] for n in factors]
    costs = [
        core_seconds(
            functools.partial(codec.decode, each, list(range(len(each))), codec.timesteps, codec.guidance_scale)
        )
        for each in some
    ]
    row("decoding", "images", tuple(map(len, some)), costs)


def limits(tokens: int) -> dict[str, float]:
    """What one core of this machine can do, a second; printed. Random reads are of an int32 for each of `tokens`."""
    rng = np.random.default_rng(0)
    table = np.ones(400_000_000, np.uint16)  # zeros would all be one page
    ranks = np.arange(tokens, dtype=np.int32)
    places = rng.integers(0, tokens, 4_000_000)
    target = np.ones_like(table)
    found = {
        "bytes copied": 2 * table.nbytes / core_seconds(lambda: np.copyto(target, table)),
        "random reads": len(places) / core_seconds(lambda: ranks[places]),
    }
    a = torch.rand(1024, 1024)
    torch.set_num_threads(1)
    for name, kind in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        b = a.to(kind)
        found[f"operations, {name}"] = 2 * 1024**3 / core_seconds(functools.partial(torch.mm, b, b))
    print()
    for name, rate in found.items():
        print(f"{name}: {rate:.3g} a core-second")
    return found


def operations(work: Callable[[], object]) -> float:
    """Additions and multiplications of matrix products and convolutions."""
    with FlopCounterMode(display=False) as counter:
        work()
    return float(counter.get_total_flops())


def shares(index: Index, kernel_index: Index, found: dict[str, float]) -> None:
    """Print how near the steps come to what bounds them."""
    print("\n| step | bound | needed | core-seconds | share of the limit |\n| --- | --- | --- | --- | --- |")
    tokens = index.tokens.size

    def line(step: str, bound: str, needed: float, seconds: float) -> None:
        share = needed / found[bound] / seconds
        print(f"| {step} | {bound} | {needed:.3g} | {seconds:.3g} | {100 * share:.2g} % |", flush=True)

    table = index.path / "table.0"
    proof = core_seconds(lambda: verify_table(index.shards[0].tokens, table))
    line("the proof", "random reads", 2 * tokens, proof)
    line("index, proved", "random reads", 4 * tokens, core_seconds(functools.partial(rebuild, index)))
    for name in ("ntd", "aligned", "smoothed"):
        n = SAMPLERS[name][1]
        reads = 2 * n * index.tokens_per_image if name == "ntd" else tokens
        line(f"{name}, {n} sequences", "random reads", reads, core_seconds(functools.partial(draw, index, name)))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    model = open_kernel(kernel_index, choose_device())
    n = SAMPLERS["kernel"][1]
    numbers = sum(len(model.projections[model.row(position)]) for position in range(model.tokens))
    products = n * kernel_index.num_images * numbers
    drawing = core_seconds(functools.partial(draw, kernel_index, "kernel"))
    line(f"kernel, {n} sequences, {kernel_index.num_images:,} images", "operations, float32", 2 * products, drawing)
    codec = load_codec("tiny")
    assert isinstance(codec, TinyCodec)
    images = torch.zeros(64, 3, 32, 32, dtype=torch.uint8)
    encode = functools.partial(codec.encode, images)
    # Counted of the network itself: the codec works in threads, where nothing is counted.
    flops = operations(lambda: codec.model.tokenize(to_signed(images)))
    line("tokenizing 64 images", "operations, float32", flops, core_seconds(encode))
    rows = list(codec.encode(images[:8]))
    decode = functools.partial(codec.decode, rows, list(range(8)), codec.timesteps, codec.guidance_scale)
    bound = "operations, bfloat16" if has_bfloat16() else "operations, float32"
    tokens_list = [torch.from_numpy(row.astype(np.int64))[None] for row in rows]
    flops = operations(lambda: codec.model.detokenize(tokens_list, codec.timesteps, codec.guidance_scale))
    line("decoding 8 images", bound, flops, core_seconds(decode))
    torch.set_num_threads(threads)


def main(config: Config) -> None:
    with tempfile.TemporaryDirectory() as folder:
        index, kernel_index = growth(config, Path(folder))
        shares(index, kernel_index, limits(index.tokens.size))


if __name__ == "__main__":
    sys.exit(run_script(main, Config, __doc__))
