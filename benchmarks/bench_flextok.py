"""FlexTok's own calls against the dense path, with random weights: speed needs no others.

    python -m benchmarks.bench_flextok          # the size of d18-d28: for a GPU
    python -m benchmarks.bench_flextok --small  # a toy, which a CPU can run

Tokenizing and decoding (20 steps, guidance) at several batch sizes: images a second, the ratio to
the package's call of the same batch, and the share of the device's peak: matrix products of the
dense path times images a second, over what one large product reaches in the same precision. The
package's decoding takes so long that it is timed once, on a GPU for the smallest batch alone. Then
the share of tokens that come out otherwise than in float32 with TF32 off, for every precision.
Prints one Markdown table and a `---` block. Needs requirements-flextok.txt.
"""

import functools
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch._dynamo
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from experiments.common import print_head, print_row
from imagegram.cli import run_script, summary
from imagegram.codec.flextok import DECODE_DTYPE, ENCODE_DTYPE, use_plain_attention
from imagegram.data.preprocess import to_signed
from imagegram.machine import choose_device
from imagegram.tokens import SEPARATOR
from tests.support.images import scenes

SCALE = 7.5
FLIP_IMAGES = 64  # tokenized in every precision
PREFIX = 64  # tokens of the shorter decode
# batch sizes of tokenizing, of decoding, and of the package's decoding
LARGE = (16, 64, 256), (16, 64), (16,)
SMALL = (1, 8), (1, 8), (1, 8)  # on a CPU the stock call has a mask of (512 x batch)^2 entries


@dataclass
class Config:
    small: bool = False  # a toy model
    timesteps: int = 20  # flow steps of a decode
    repeats: int = 3  # of each timing, after one that warms up and compiles; the median counts


def build(small: bool, device: torch.device) -> Any:
    """A FlexTok with random weights, as a loaded one stands on the device."""
    from flextok.flextok_wrapper import FlexTokFromHub

    from tests.support.random_flextok import D18_D28, config, randomize, save_random_flextok

    if small:
        with tempfile.TemporaryDirectory() as folder:
            model = FlexTokFromHub.from_pretrained(save_random_flextok(Path(folder))).eval()
    else:
        with device:
            model = randomize(FlexTokFromHub(config(D18_D28, None)))
    model.vae.sample_posterior = False
    if device.type == "cpu":
        use_plain_attention(model)
    return model.to(device)


def seconds(work: Callable[[], object], repeats: int) -> float:
    """The median time of `work`, after one call that does not count; NaN where memory does not hold
    it."""
    times = []
    try:
        for _ in range(repeats + 1):
            started = time.perf_counter()
            work()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            times.append(time.perf_counter() - started)
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
        return float("nan")
    return statistics.median(times[1:])


@functools.cache
def peak(device: torch.device, dtype: torch.dtype) -> float:
    """Operations a second of one large matrix product."""
    n = 8192 if device.type == "cuda" else 1024
    a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
    return 2 * n**3 / seconds(lambda: [a @ b for _ in range(10)], 3) * 10


def operations(work: Callable[[], object]) -> int:
    """Floating-point operations of the matrix products, convolutions and attention in `work`."""
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


@dataclass(frozen=True)
class Run:
    """A way to compute some images."""

    path: str  # stock or dense
    images: Callable[[int], object]  # so many of them
    dtype: torch.dtype


class Table:
    """Rows of the Markdown table; ratios are to the first row of the same task and batch."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.stock: dict[tuple[str, int], float] = {}
        self.best: dict[str, float] = {}
        print_head("task", "path", "batch", "img/s", "times stock", "share of peak")

    def measure(self, task: str, run: Run, batch: int, repeats: int, work: int) -> None:
        """A row of `run` for a batch; `work`: operations of an image."""
        rate = batch / seconds(functools.partial(run.images, batch), repeats)
        if run.path == "stock":
            self.stock[task, batch] = rate
        ratio = rate / self.stock.get((task, batch), math.nan)
        share = rate * work / peak(self.device, run.dtype)
        figures = ((rate, ".4g"), (ratio, ".2f"), (share, ".0%"))
        cells = [format(figure, form) if math.isfinite(figure) else "" for figure, form in figures]
        path = f"{run.path} {str(run.dtype).removeprefix('torch.')}"
        print_row(task, path, batch, *cells)
        key = f"{task} {path}".replace(" ", "_")
        if rate > self.best.get(key, 0):
            self.best[key] = rate


def bench_encode(
    model: Any, pixels: Tensor, batches: Sequence[int], repeats: int, table: Table
) -> Tensor:
    """Both paths for tokenizing, from bytes on the host to uint16 on the host; returns tokens [n,
    L]."""
    from imagegram.codec.flextok_dense import FastEncoder

    device = model.device
    cuda = model.device.type == "cuda"
    dtype = ENCODE_DTYPE if cuda else torch.float32
    exact = FastEncoder(model)
    lower = FastEncoder(model, dtype, compiled=cuda)
    work = operations(lambda: exact.tokens(pixels[:1].to(device)))
    table.best["gflop_tokenize"] = work / 1e9

    def stock(batch: int) -> Tensor:
        return torch.cat(model.tokenize(to_signed(pixels[:batch].to(device)))).cpu()

    def dense(batch: int) -> Tensor:
        return lower.tokens(pixels[:batch].to(device)).to(torch.uint16).cpu()

    for batch in batches:
        for run in (Run("stock", stock, torch.float32), Run("dense", dense, dtype)):
            table.measure("tokenize", run, batch, repeats, work)
    return exact.tokens(pixels[: max(batches)].to(device))


def bench_decode(config: Config, model: Any, tokens: Tensor, kept: int, table: Table) -> None:
    """Both paths for decoding the first `kept` of `tokens` [n, L] to images on the device."""
    from imagegram.codec.flextok_dense import FastDecoder

    _, batches, stock_batches = SMALL if config.small else LARGE
    steps = config.timesteps
    cuda = model.device.type == "cuda"
    dtype = DECODE_DTYPE if cuda else torch.float32
    exact = FastDecoder(model)
    lower = FastDecoder(model, dtype, compiled=cuda)
    shape = max(batches), model.pipeline.out_channels, 32, 32
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(model.device)
    work = operations(lambda: exact.images(tokens[:1], [kept], noise[:1], steps, SCALE))
    table.best[f"gflop_decode_{kept}"] = work / 1e9

    def stock(batch: int) -> Tensor:
        rows = [row[None, :kept] for row in tokens[:batch]]
        options = {"guidance_scale": SCALE, "perform_norm_guidance": True, "verbose": False}
        return model.detokenize(rows, timesteps=steps, **options)

    def dense(batch: int) -> Tensor:
        return lower.images(tokens[:batch], [kept] * batch, noise[:batch], steps, SCALE)

    task = f"decode {kept}"
    for batch in stock_batches:
        table.measure(task, Run("stock", stock, torch.float32), batch, 1, work)
    for batch in batches:
        table.measure(task, Run("dense", dense, dtype), batch, config.repeats, work)


def bench_flips(model: Any, pixels: Tensor) -> dict[str, float]:
    """The share of tokens that each precision makes otherwise than float32 with TF32 off."""
    from imagegram.codec.flextok_dense import FastEncoder

    def tokens(dtype: torch.dtype, tf32: bool) -> Tensor:
        torch.set_float32_matmul_precision("high" if tf32 else "highest")
        torch.backends.cudnn.allow_tf32 = tf32
        encoder = FastEncoder(model, dtype)
        return torch.cat([encoder.tokens(part.to(model.device)) for part in pixels.split(16)])

    print()
    print_head("precision", "tokens that differ from float32")
    reference = tokens(torch.float32, False)
    flips = {}
    precisions = {"tf32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
    for name, dtype in precisions.items():
        found = tokens(dtype, name == "tf32")
        share = flips[f"flips_{name}"] = float((found != reference).float().mean())
        overflown = int((found == SEPARATOR).any(1).sum())
        print_row(name, f"{share:.2%}" + (f", {overflown} images overflow" if overflown else ""))
    return flips


@torch.inference_mode()
def main(config: Config) -> None:
    device = choose_device()
    torch._dynamo.config.recompile_limit = 64  # the stock call compiles every batch size anew
    batches = (SMALL if config.small else LARGE)[0]
    model = build(config.small, device)
    length = int(model.encoder.module_dict["enc_register_module"].n_max)
    name = f"CPU, {torch.get_num_threads()} threads"
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    size = "a toy" if config.small else "the size of d18-d28"
    print(f"{name}, torch {torch.__version__}, {size}")
    table = Table(device)
    images = scenes(max(FLIP_IMAGES, *batches), size=256)
    tokens = bench_encode(model, images, batches, config.repeats, table)
    for kept in (length, PREFIX):
        bench_decode(config, model, tokens, kept, table)
    flips = bench_flips(model, images[:FLIP_IMAGES])
    summary(device=name, **table.best, **flips)


if __name__ == "__main__":
    sys.exit(run_script(main, Config, __doc__))
