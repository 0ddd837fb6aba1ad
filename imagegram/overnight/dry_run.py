"""What a night would do: counts, disk, memory and time, measured on the first images of each step."""

import shutil
import time

import numpy as np
import torch

from imagegram.codec import Codec
from imagegram.data.pixels import preprocess
from imagegram.data.sources import Source
from imagegram.machine import cores, memory_available
from imagegram.overnight.needs import check_machine, existing, needs_of
from imagegram.overnight.plan import Plan
from imagegram.report.night import FILE, Night

FIRST = 64  # images that are tokenized to see how long they take
FEW = 16  # images that are decoded to see how long they take
INDEX_SECONDS = 2e-6  # of a core for a token of the corpus; benchmarks/bench_index.py


def say_plan(plan: Plan) -> None:
    """Print what `overnight_run.py` would do with `plan`; nothing is written."""
    needs = needs_of(plan)
    codec = needs.codec
    print(f"{plan.out}: one index of {len(plan.data)} data set{'s' * (len(plan.data) > 1)}, codec {codec.name}")

    # 1) Data sets.
    encode_seconds = 0.0
    for source, missing in zip(needs.sources, needs.to_tokenize, strict=True):
        if missing:
            encode_seconds += missing * seconds_to_encode(source, codec)
        done = "to tokenize" if missing == len(source) else f"of which {missing:,} are still to be tokenized"
        print(f"  {source.name}, split {source.split}: {len(source):,} images, {done if missing else 'tokenized'}")

    # 2) Samplers.
    night = Night.read(plan.out) if (plan.out / FILE).exists() else None
    decode_seconds = seconds_to_decode(codec)
    each = needs.decodes
    known = night.seconds if night else {}
    seconds = {}
    for name, settings in plan.all_settings().items():
        finished = name not in needs.to_generate
        seconds[name] = 0.0 if finished else known.get(name, each * decode_seconds)
        basis = "as measured before" if name in known else f"at least: {each} images to decode"
        print(f"  {name}: {settings.describe()}; {'finished' if finished else f'{clock(seconds[name])} ({basis})'}")

    # 3) Sums.
    index_seconds = needs.corpus * INDEX_SECONDS / cores()
    generate_seconds = sum(seconds.values())
    if plan.hours:
        generate_seconds = min(generate_seconds, 3600 * plan.hours)
    free = shutil.disk_usage(existing(plan.out)).free
    print(f"  time: tokenize {clock(encode_seconds)}, index {clock(index_seconds)}, generate {clock(generate_seconds)}")
    print(f"  disk: about {needs.disk() / 1e6:,.0f} MB, {free / 1e6:,.0f} MB are free")
    print(f"  memory: about {needs.memory() / 2**30:.1f} GiB, {memory_available() / 2**30:.1f} GiB are available")
    check_machine(needs)


def seconds_to_encode(source: Source, codec: Codec) -> float:
    """Seconds an image, of the first that can be read."""
    started = time.monotonic()
    pixels = []
    for i in range(min(FIRST, len(source))):
        try:
            pixels.append(preprocess(source.read(i)[0], codec.image_size))
        except (OSError, ValueError, SyntaxError):
            continue
    if pixels:
        codec.encode(torch.stack(pixels))
    return (time.monotonic() - started) / max(1, len(pixels))


def seconds_to_decode(codec: Codec) -> float:
    """Seconds an image, of a few whose tokens are all 0."""
    tokens = np.zeros((FEW, codec.tokens_per_image), np.uint16)
    started = time.monotonic()
    codec.decode(list(tokens), list(range(FEW)), codec.timesteps, codec.guidance_scale)
    return (time.monotonic() - started) / FEW


def clock(seconds: float) -> str:
    """A duration in words."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
