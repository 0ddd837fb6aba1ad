"""What a night would do: counts, disk, memory and time, measured on the first images of each step."""

import shutil
import time
from pathlib import Path

import numpy as np
import torch

from imagegram.codec import Codec, load_codec
from imagegram.data.pixels import preprocess
from imagegram.data.sources import Source, open_dataset
from imagegram.machine import cores, memory_available
from imagegram.overnight.plan import Plan
from imagegram.report.night import FILE, Night
from imagegram.tokens import TokenFolder

FIRST = 64  # images that are tokenized to see how long they take
FEW = 16  # images that are decoded to see how long they take
INDEX_SECONDS = 2e-6  # of a core for a token of the corpus; benchmarks/bench_index.py
PICTURE_BYTES = 1.2  # of a PNG, for a pixel of a photo


def say_plan(plan: Plan) -> None:
    """Print what `overnight_run.py` would do with `plan`; nothing is written."""
    codec = load_codec(plan.codec)
    print(f"{plan.out}: one index of {len(plan.data)} data set{'s' * (len(plan.data) > 1)}, codec {codec.name}")

    # 1) Data sets.
    total = 0
    todo = 0
    encode_seconds = 0.0
    for data in plan.data:
        columns = data.image_column, data.label_column
        source = open_dataset(data.name, data.split, data.images, codec.image_size, *columns)
        missing = images_left(plan.token_folder(data), len(source))
        if missing:
            encode_seconds += missing * seconds_to_encode(source, codec)
        total += len(source)
        todo += missing
        done = "to tokenize" if missing == len(source) else f"of which {missing:,} are still to be tokenized"
        print(f"  {source.name}, split {source.split}: {len(source):,} images, {done if missing else 'tokenized'}")

    # 2) Samplers.
    night = Night.read(plan.out) if (plan.out / FILE).exists() else None
    decode_seconds = seconds_to_decode(codec)
    each = plan.decoded + min(plan.decoded, 64) + 36 + plan.strips * (codec.tokens_per_image - 1).bit_length()
    known = night.seconds if night else {}
    seconds = {}
    for name, settings in plan.all_settings().items():
        finished = night is not None and name in night.samplers and night.is_finished(plan.out, name)
        seconds[name] = 0.0 if finished else known.get(name, each * decode_seconds)
        basis = "as measured before" if name in known else f"at least: {each} images to decode"
        print(f"  {name}: {settings.describe()}; {'finished' if finished else f'{clock(seconds[name])} ({basis})'}")

    # 3) Sums.
    index_seconds = total * (codec.tokens_per_image + 1) * INDEX_SECONDS / cores()
    generate_seconds = sum(seconds.values())
    if plan.hours:
        generate_seconds = min(generate_seconds, 3600 * plan.hours)
    index_bytes = total * (codec.tokens_per_image + 1) * 9
    picture_bytes = len(seconds) * each * codec.image_size**2 * PICTURE_BYTES
    free = shutil.disk_usage(existing(plan.out)).free
    print(f"  time: tokenize {clock(encode_seconds)}, index {clock(index_seconds)}, generate {clock(generate_seconds)}")
    print(f"  disk: about {(index_bytes + picture_bytes) / 1e6:,.0f} MB, {free / 1e6:,.0f} MB are free")
    print(
        f"  memory: {memory_available() / 2**30:.1f} GiB are available, the index needs {index_bytes / 2**30:.1f} GiB"
    )


def images_left(folder: Path, images: int) -> int:
    """How many of `images` a token folder does not hold yet."""
    if not (folder / "manifest.json").exists():
        return images
    tokens = TokenFolder.open(folder)
    return sum(len(tokens.range(shard)) for shard in tokens.pending())


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


def existing(path: Path) -> Path:
    """The folder itself, or the nearest one above it that is there."""
    return path if path.exists() else existing(path.parent)


def clock(seconds: float) -> str:
    """A duration in words."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
