"""A night in small: every step on its first batch, to see how long it takes. Only a temporary folder is written to."""

import contextlib
import io
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from imagegram.cli import UserError
from imagegram.codec import Codec
from imagegram.data.pixels import preprocess
from imagegram.data.source import Source
from imagegram.generating import Request, draw, measure
from imagegram.index.build import build_index
from imagegram.index.folder import Index
from imagegram.measure import coherence
from imagegram.measure.classifier import train_classifier
from imagegram.measure.control import read_control
from imagegram.overnight.needs import Needs
from imagegram.sampling import kernel_metric
from imagegram.sampling.settings import Settings
from imagegram.tokenizing import manifest_of
from imagegram.tokens import TokenFolder

IMAGES = 64  # of a data set that are tokenized
DECODED = 16  # images that are decoded
INDEXED = 2000  # images of the index at most, put together at random from the tokens of those that were tokenized
SEQUENCES = 1000  # sampled and measured with every method at most
STEPS = 3  # of training judges, and of fitting the kernel


@dataclass(frozen=True)
class Trial:
    """What a night takes, in seconds."""

    encode: float  # the images that are still to be tokenized
    decode: float  # one image
    methods: dict[str, float]  # sampling and measuring as many sequences as planned from an index of that size
    fit: float  # the kernel
    judges: float  # training them, and decoding what they are trained on


def try_out(needs: Needs) -> Trial:
    """Run the first batch of every step."""
    codec = needs.codec
    seconds = 0.0
    known = []
    for source, missing in zip(needs.sources, needs.to_tokenize, strict=True):
        started = time.monotonic()
        tokens = encode_first(source, codec)
        seconds += missing * (time.monotonic() - started) / max(1, len(tokens))
        known.append(tokens)
    tokens = np.concatenate(known)
    if not len(tokens):
        raise UserError(f"none of the first {IMAGES} images can be read")

    started = time.monotonic()
    codec.decode(list(tokens[:DECODED]), list(range(len(tokens[:DECODED]))), codec.timesteps, codec.guidance_scale)
    decode = (time.monotonic() - started) / max(1, len(tokens[:DECODED]))

    with tempfile.TemporaryDirectory() as place, quiet():
        index = small_index(Path(place), tokens, needs.sources[0], codec, min(INDEXED, needs.images))
        methods, fit = try_methods(needs, index)
    return Trial(seconds, decode, methods, fit, seconds_of_judges(needs, decode))


def encode_first(source: Source, codec: Codec) -> NDArray[np.uint16]:
    """The tokens of the first images that can be read."""
    pixels = []
    for i in range(min(IMAGES, len(source))):
        with contextlib.suppress(OSError, ValueError, SyntaxError):  # what Pillow raises for files it cannot read
            pixels.append(preprocess(source.read(i)[0], codec.image_size))
    return codec.encode(torch.stack(pixels)) if pixels else np.zeros((0, codec.tokens_per_image), np.uint16)


def small_index(place: Path, tokens: NDArray[np.uint16], source: Source, codec: Codec, images: int) -> Index:
    """An index of so many images below `place`, each position of `tokens` [n, L] shuffled by itself."""
    rng = np.random.default_rng(0)
    rows = rng.integers(0, len(tokens), (images, codec.tokens_per_image))
    manifest = replace(manifest_of(source, codec, 0.1, images), images=images)
    folder = TokenFolder.create(place / "tokens", manifest)
    folder.write(0, tokens[rows, np.arange(codec.tokens_per_image)], np.zeros(images, np.int64), {}, 0.0)
    return build_index([folder.path], place / "input", place / "index")


def try_methods(needs: Needs, index: Index) -> tuple[dict[str, float], float]:
    """Seconds of sampling and measuring for every method of the plan, and of fitting the kernel where that is left."""
    control = read_control(index)
    sequences = min(SEQUENCES, needs.plan.sequences)
    larger = needs.plan.sequences / sequences * max(1.0, needs.images / INDEXED)
    methods = {}
    fit = 0.0
    for method in {settings.method for settings in needs.plan.all_settings().values()}:
        if method == "kernel" and index.levels:
            device = kernel_metric.choose_device()
            kernel_metric.open_kernel(index, device, steps=1)  # kept; it also loads what only the first fit waits for
            started = time.monotonic()
            kernel_metric.fit(index.tokens, index.levels, device, steps=STEPS)
            fit = (time.monotonic() - started) / STEPS * kernel_metric.STEPS
        started = time.monotonic()
        request = Request(Settings(method), sequences, 0, 0).completed(index, needs.codec)
        samples, _ = draw(index, control, request)
        measure(index, control, request, samples, np.random.default_rng(0))
        methods[method] = (time.monotonic() - started) * larger
    if (needs.plan.out / "index-kernel.safetensors").exists():
        fit = 0.0
    return methods, fit


def seconds_of_judges(needs: Needs, decode: float) -> float:
    """Seconds of training the judges; 0 where that is done, or too few images are held out."""
    held_out = min(needs.images // 10, coherence.MOST)
    judges = needs.plan.out / f"index-judges-{needs.codec.tokens_per_image}.pt"
    if judges.exists() or held_out < coherence.LEAST:
        return 0.0
    images = torch.zeros(64, 3, 32, 32)
    train_classifier(images, torch.arange(64) % 11, 1, batch=64)
    started = time.monotonic()
    train_classifier(images, torch.arange(64) % 11, STEPS, batch=64)
    return 2 * (held_out * decode + (time.monotonic() - started) / STEPS * coherence.STEPS)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Meanwhile nothing is printed."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield
