"""Sample token sequences from an index, decode them, and measure what came out."""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from imagegram.cli import UserError
from imagegram.codec import Codec, load_codec
from imagegram.files import atomic, read_json, run_lock, write_json
from imagegram.index.folder import Index
from imagegram.measure import copying as memorization
from imagegram.measure.coherence import LEAST, MOST, Judges
from imagegram.measure.copying import Figure
from imagegram.report import sheets as report
from imagegram.report.strips import draw as draw_strips
from imagegram.sampling.sampler import sample
from imagegram.sampling.settings import Settings
from imagegram.sampling.smoothed import held_out_bits

DECODE_BATCH = 64
GRID = 64  # images of the contact sheet
STITCHED = 6  # images shown beside their sources
MOST_SOURCES = 6  # of each


@dataclass(frozen=True)
class Generated:
    """A finished folder of generated images; its files are described at `generate`."""

    path: Path
    report: dict[str, Any]
    new: bool  # False where it was finished before


Rows = NDArray[np.uint16] | Sequence[NDArray[np.uint16]]  # [n, k], or n prefixes of different lengths


def decode(codec: Codec, tokens: Rows, seeds: NDArray[np.int64], timesteps: int, scale: float) -> Tensor:
    """Tokens -> images uint8 [n, 3, S, S] in batches, with a progress bar for the long ones."""
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
    if name and name.partition("@")[0] != index.codec:
        raise UserError(f"{index.path} holds tokens of codec {index.codec!r}, not {name!r}: leave --codec out")
    codec = load_codec(index.codec, index.revision)
    if codec.revision != index.revision:
        raise UserError(
            f"{index.path} holds tokens of {index.codec!r} revision {index.revision}, here is {codec.revision}: "
            "tokenize and index again"
        )
    return codec


def held_out_images(index: Index) -> tuple[NDArray[np.uint16], NDArray[np.int64]]:
    """The images that the data sets of `index` hold out, the control of every measurement: tokens [M, L], and labels
    [M], numbered through the data sets."""
    corpora = [folder.load() for folder in index.token_folders()]
    labels = [number * 1_000_000 + corpus.labels[corpus.held_out] for number, corpus in enumerate(corpora)]
    return np.concatenate([corpus.tokens[corpus.held_out] for corpus in corpora]), np.concatenate(labels)


def open_judges(
    index: Index, decoded: Callable[[NDArray[np.uint16]], Tensor], length: int, path: Path
) -> Judges | None:
    """The judges of coherence for images of `length` tokens, trained on what `decoded` makes of held-out tokens, or
    read from `path`; None where too few images are held out."""
    tokens, labels = held_out_images(index)
    if len(tokens) < LEAST:
        return None
    key = f"{index.info['hash']} {length}"
    if judges := Judges.load(path, key):
        return judges
    rng = np.random.default_rng(0)
    chosen = np.sort(rng.permutation(len(tokens))[:MOST])
    rows = rng.integers(0, index.num_images, (len(chosen), length))
    print(f"training the judges of coherence on {len(chosen)} held-out images")
    real, chaos = decoded(tokens[chosen, :length]), decoded(index.tokens[rows, np.arange(length)])
    judges = Judges.train(real, labels[chosen], chaos)
    judges.save(path, key, real, chaos)
    return judges


def held_out_figures(index: Index, path: Path) -> dict[str, Figure]:
    """Bits per token of at most 1,000 held-out images; kept in `path`."""
    if path.exists() and (before := read_json(path))["index"] == index.info["hash"]:
        return dict(before["bits"])
    rng = np.random.default_rng(0)
    tokens, _ = held_out_images(index)
    bits = held_out_bits(index, tokens[np.sort(rng.permutation(len(tokens))[:1000])], rng) if len(tokens) else {}
    write_json(path, {"index": index.info["hash"], "bits": bits})
    return bits


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
    length: int = 0,
    given: int = 0,
    strips: int = 0,
) -> Generated:
    """Sample `sequences` token sequences, measure all of them, decode the first `images`; into `out`:

    tokens.npy uint16 [n, k]; sources.npy int64 [n, k, 3], for every token the data set (its number in report.json's
    "sources"), the ordinal of the image and the position it was copied from, -1 for given tokens; image_0000.png ...;
    grid.png, the first 64 images, each above its nearest training image; sources.png, images beside the training
    images they were stitched from; report.json, written last. The judges of coherence are kept beside `out`. The first
    `strips` sequences are also decoded from their first 1, 2, 4, ... tokens (prefixes.png) and from several noises
    (seeds.png).

    The first `length` tokens are drawn (0: all), of these the first `given` taken from held-out images. A finished
    `out` of the same settings and index is left alone. UserError on bad input.
    """
    index = Index.open(index_path)
    codec = open_codec(index, codec_name)
    timesteps, guidance_scale = timesteps or codec.timesteps, guidance_scale or codec.guidance_scale
    length = length or index.tokens_per_image
    request = {
        "settings": asdict(settings),
        "seed": seed,
        "sequences": sequences,
        "images": min(images, sequences),
        "length": length,
        "given": given,
        "strips": strips,
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

        rng = np.random.default_rng(seed)
        held_out, _ = held_out_images(index)
        prefix = None
        if given:
            if not len(held_out):
                raise UserError(f"{index.path} holds out no images whose first tokens could be given")
            prefix = held_out[rng.integers(0, len(held_out), sequences), :given]
        started = time.monotonic()
        samples = sample(index, settings, sequences, rng, length, prefix)
        sampling_seconds = time.monotonic() - started
        rows, positions = samples.sources[..., 0], samples.sources[..., 1:]
        origins = np.where(rows[..., None] < 0, -1, index.images[rows, :2])
        for name, array in (("tokens", samples.tokens), ("sources", np.concatenate([origins, positions], 2))):
            with atomic(out / f"{name}.npy") as temporary, temporary.open("wb") as f:
                np.save(f, array)
        rng = np.random.default_rng(seed)
        measures = memorization.measure(samples.tokens, index, held_out, rng)

        def decoded(tokens: Rows, seeds: NDArray[np.int64] | None = None) -> Tensor:
            seeds = np.arange(len(tokens), dtype=np.int64) if seeds is None else seeds
            return decode(codec, tokens, seeds, timesteps, guidance_scale)

        seeds = seed * 1_000_000 + np.arange(images, dtype=np.int64)
        started = time.monotonic()
        pictures = decoded(samples.tokens[:images], seeds[:sequences])
        decoding_seconds = time.monotonic() - started
        report.save_images(pictures, out)
        if judges := open_judges(index, decoded, length, out.parent / "judges.pt"):
            for who, figures in judges.measure(pictures, rng).items():
                measures[who] |= figures
        shown = samples.tokens[: min(images, GRID)]
        nearest, distances = memorization.nearest(shown, index.tokens)
        neighbours = pictures[: len(shown)].clone()  # an exact copy looks like its original, from the same noise
        if (others := np.flatnonzero(distances)).size:
            neighbours[others] = decoded(index.tokens[nearest[others], :length], seeds[others])
        report.grid(pictures[: len(shown)], neighbours, distances == 0).save(out / "grid.png")
        few = slice(0, min(STITCHED, len(shown)))
        parts = [report.shares(row)[:MOST_SOURCES] for row in rows[few]]
        originals = decoded(index.tokens[np.array([row for part in parts for row, _ in part]), :length])
        report.provenance(pictures[few], originals, parts, index.images[:, 1]).save(out / "sources.png")
        if strips:
            draw_strips(decoded, shown[:strips], seeds[: min(strips, len(shown))], out)
        result = {
            "request": request,
            "index": str(index_path),
            "sources": index.sources,
            "training_images": index.num_images,
            "held_out_images": len(held_out),
            "sequences_per_second": round(sequences / sampling_seconds, 1),
            "decoded_images_per_second": round(len(pictures) / decoding_seconds, 1),
            **measures,
        }
        write_json(done, result)
    return Generated(out, result, new=True)
