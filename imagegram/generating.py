"""Sample token sequences from an index, decode them, and measure what came out."""

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from imagegram import memorization, report
from imagegram.codec import Codec, load_codec
from imagegram.common import UserError, atomic, read_json, run_lock, write_json
from imagegram.index import Index
from imagegram.sampler import Settings, sample
from imagegram.shards import TokenFolder

DECODE_BATCH = 64
STITCHED = 8  # images shown beside their sources
MOST_SOURCES = 8  # of each


@dataclass(frozen=True)
class Generated:
    """A finished folder of generated images; its files are described at `generate`."""

    path: Path
    report: dict[str, Any]
    new: bool  # False where it was finished before


def decode(codec: Codec, tokens: NDArray[np.uint16], seeds: NDArray[np.int64], timesteps: int, scale: float) -> Tensor:
    """Tokens [n, k] -> images uint8 [n, 3, S, S] in batches, with a progress bar for the long ones."""
    batches = range(0, len(tokens), DECODE_BATCH)
    with tqdm(total=len(tokens), unit="img", desc="decoding", disable=len(tokens) <= DECODE_BATCH) as progress:
        images = []
        for i in batches:
            rows, noise = tokens[i : i + DECODE_BATCH], seeds[i : i + DECODE_BATCH]
            images.append(codec.decode(list(rows), noise.tolist(), timesteps, scale))
            progress.update(len(rows))
    return torch.cat(images)


def open_codec(index: Index, name: str = "") -> Codec:
    """The codec that made the tokens of `index`; UserError where `name` or the weights at hand are another."""
    if name and name != index.codec:
        raise UserError(f"{index.path} holds tokens of codec {index.codec!r}, not {name!r}: leave --codec out")
    codec = load_codec(index.codec)
    if codec.revision != index.revision:
        raise UserError(
            f"{index.path} holds tokens of {index.codec!r} revision {index.revision}, here is {codec.revision}: "
            "tokenize and index again"
        )
    return codec


def held_out_tokens(index: Index) -> NDArray[np.uint16]:
    """Tokens [M, L] of the images that the data sets of `index` hold out: the control of every measurement."""
    corpora = [TokenFolder.open(Path(source)).load() for source in index.sources]
    return np.concatenate([corpus.tokens[corpus.held_out] for corpus in corpora])


def generate(
    index_path: Path,
    out: Path,
    settings: Settings,
    sequences: int = 1000,
    images: int = 64,
    seed: int = 0,
    codec_name: str = "",
    timesteps: int = 0,
    guidance_scale: float = 0.0,
) -> Generated:
    """Sample `sequences` token sequences, measure all of them, decode the first `images`; into `out`:

    tokens.npy uint16 [n, k]; sources.npy int64 [n, k, 2], for every token the row of the index and the position it
    was copied from; image_0000.png ...; grid.png, each image above its nearest training image; sources.png, images
    beside the training images they were stitched from; report.json, written last.

    A finished `out` of the same settings and index is left alone. UserError on bad input.
    """
    index = Index.open(index_path)
    codec = open_codec(index, codec_name)
    timesteps, guidance_scale = timesteps or codec.timesteps, guidance_scale or codec.guidance_scale
    request = {
        "settings": asdict(settings),
        "seed": seed,
        "sequences": sequences,
        "images": min(images, sequences),
        "timesteps": timesteps,
        "guidance_scale": guidance_scale,
        "codec": codec.name,
        "revision": codec.revision,
        "index": index.info["hash"],
    }
    with run_lock(out):
        done = out / "report.json"
        if done.exists() and (before := read_json(done))["request"] == request:
            return Generated(out, before, new=False)
        done.unlink(missing_ok=True)
        for stale in out.glob("image_*.png"):
            stale.unlink()

        started = time.monotonic()
        samples = sample(index, settings, sequences, np.random.default_rng(seed))
        sampling_seconds = time.monotonic() - started
        for name, array in (("tokens", samples.tokens), ("sources", samples.sources)):
            with atomic(out / f"{name}.npy") as temporary, temporary.open("wb") as f:
                np.save(f, array)
        held_out = held_out_tokens(index)
        measures = memorization.measure(samples.tokens, index.tokens, held_out, np.random.default_rng(seed))

        shown = samples.tokens[:images]
        seeds = seed * 1_000_000 + np.arange(len(shown), dtype=np.int64)
        started = time.monotonic()
        pictures = decode(codec, shown, seeds, timesteps, guidance_scale)
        decoding_seconds = time.monotonic() - started
        rows, distances = memorization.nearest(shown, index.tokens)
        neighbours = decode(codec, index.tokens[rows], seeds, timesteps, guidance_scale)
        report.save_images(pictures, out)
        report.grid(pictures, neighbours, distances == 0).save(out / "grid.png")
        few = slice(0, min(STITCHED, len(shown)))
        parts = [report.shares(sources)[:MOST_SOURCES] for sources in samples.sources[few]]
        used = np.array([row for part in parts for row, _ in part])
        originals = decode(codec, index.tokens[used], np.zeros(len(used), np.int64), timesteps, guidance_scale)
        report.provenance(pictures[few], originals, parts).save(out / "sources.png")
        result = {
            "request": request,
            "index": str(index_path),
            "sources": index.sources,
            "training_images": index.num_images,
            "held_out_images": len(held_out),
            "sequences_per_second": round(sequences / sampling_seconds, 1),
            "decoded_images_per_second": round(len(shown) / decoding_seconds, 1),
            **measures,
        }
        write_json(done, result)
    return Generated(out, result, new=True)
