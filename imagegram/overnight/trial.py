"""A night in small: every step on its first batch, to see how long it takes. Only a temporary folder is written to."""

import contextlib
import io
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from imagegram.cli import UserError
from imagegram.codec import Codec
from imagegram.data.dataset import Source
from imagegram.data.preprocess import preprocess
from imagegram.generating import Request, draw, measure
from imagegram.index.build import build_index
from imagegram.index.folder import Index
from imagegram.machine import choose_device
from imagegram.metrics import coherence
from imagegram.metrics.classifier import train_classifier
from imagegram.metrics.held_out import Control, read_control
from imagegram.overnight.needs import Needs
from imagegram.samplers.kernel import fit as kernel_fit
from imagegram.samplers.settings import Settings
from imagegram.tokenizing import manifest_of
from imagegram.tokens import TokenFolder

IMAGES = 64  # of a data set that are tokenized
DECODED = 16  # images that are decoded
INDEXED = 2000  # images of the index at most, put together at random from the tokens of those that were tokenized
FEW = (32, 128)  # sequences sampled and measured of every kind of sampler: what any number takes lies on their line
STEPS = 3  # of training judges, and of fitting the kernel


Kind = tuple[str, bool]  # what decides how long a sampler takes: its method, and whether it is reweighted


def kind_of(settings: Settings) -> Kind:
    """The kind of a sampler."""
    return settings.method, settings.reweighted


@dataclass(frozen=True)
class Trial:
    """What a night takes, in seconds."""

    encode: float  # the images that are still to be tokenized
    decode: float  # one image
    kinds: dict[Kind, float]  # sampling and measuring as many sequences as planned from an index of that size
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

    decode = seconds_of_decode(codec, tokens[:DECODED])
    with tempfile.TemporaryDirectory() as place, quiet():
        index = small_index(Path(place), tokens, needs.sources[0], codec, min(INDEXED, needs.images))
        fit = seconds_of_fit(needs, index)
        larger = max(1.0, needs.images / INDEXED)
        control = read_control(index)
        sequences = needs.plan.sequences
        kinds = {}
        for kind, settings in samplers_to_try(list(needs.plan.all_settings().values())).items():
            taken = seconds_of_sampler(index, control, codec, settings, sequences, needs.images // 10)
            kinds[kind] = taken * larger
    return Trial(seconds, decode, kinds, fit, seconds_of_judges(needs, decode))


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


def samplers_to_try(samplers: Sequence[Settings]) -> dict[Kind, Settings]:
    """A sampler of every kind, with the longest context and all tokens to draw: the one that takes longest."""
    found: dict[Kind, Settings] = {}
    for settings in samplers:
        kind = kind_of(settings)
        context = max(settings.context, found[kind].context if kind in found else 0)
        found[kind] = replace(settings, context=context, tokens=0, given=0, label=-1)
    return found


def seconds_of_sampler(
    index: Index, control: Control, codec: Codec, settings: Settings, sequences: int, held_out: int
) -> float:
    """Seconds of sampling and measuring `sequences`, beside `held_out` images: from a few and from some more of both,
    what is the same for any number, and what each of them adds."""
    drawing = []
    measuring = []
    for n in (FEW[0], *FEW):  # the first time loads what only the first waits for
        few = replace(control, tokens=control.tokens[:n])
        request = Request(settings, n, 0, 0).completed(index, codec)
        started = time.monotonic()
        samples, _ = draw(index, control, request)
        drawn = time.monotonic()
        measure(index, few, request, samples, np.random.default_rng(0))
        drawing.append(drawn - started)
        measuring.append(time.monotonic() - drawn)
    return on_the_line(drawing, sequences) + on_the_line(measuring, (sequences + held_out) / 2)


def on_the_line(seconds: Sequence[float], n: float) -> float:
    """Seconds for `n`, where the last two of `seconds` are those for FEW."""
    each = max(0.0, seconds[-1] - seconds[-2]) / (FEW[1] - FEW[0])
    return seconds[-1] + max(0.0, n - FEW[1]) * each


def seconds_of_decode(codec: Codec, tokens: NDArray[np.uint16]) -> float:
    """Seconds of decoding one image, from those of `tokens` [n, L]."""
    started = time.monotonic()
    codec.decode(list(tokens), list(range(len(tokens))), codec.timesteps, codec.guidance_scale)
    return (time.monotonic() - started) / max(1, len(tokens))


def seconds_of_fit(needs: Needs, index: Index) -> float:
    """Seconds of fitting the kernel; 0 where that is done, or no sampler needs it. The index keeps a rough fit."""
    if not index.levels or not any(s.method == "kernel" for s in needs.plan.all_settings().values()):
        return 0.0
    device = choose_device()
    model = kernel_fit.open_kernel(index, device, steps=1)  # it also loads what only the first fit waits for
    if (needs.plan.out / "index-kernel.safetensors").exists():
        return 0.0
    started = time.monotonic()
    kernel_fit.fit(index.tokens, index.levels, device, steps=STEPS)
    # A step takes as long as its library is large.
    most = kernel_fit.LONG_LIBRARY if model.shared else kernel_fit.LIBRARY
    larger = max(1.0, min(most, needs.images) / min(most, index.num_images))
    return (time.monotonic() - started) / STEPS * kernel_fit.STEPS * larger


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
