"""Sample token sequences from an index, decode them, measure what came out: one finished folder of images.

    tokens.npy      uint16 [n, k]
    sources.npy     int64 [n, k, 3]: for every token the data set (its number in report.json's "sources"), the ordinal
                    of the image and the position it was drawn from; -1 for those of a prompt
    image_0000.png  ... the decoded images; pictures.json: what is known of each of them (metrics/provenance.py)
    grid.png        the first 64 images, each above its nearest training image
    sources.png     images beside the training images of their tokens
    prefixes.png    the first `prefixes` sequences, decoded from their first 1, 2, 4, ... tokens; one by one as
                    prefix_IMAGE_TOKENS.png
    seeds.png       the first sequences from several noises
    listening.png   which position looks at which in a sampler that was fitted
    report.json     what was asked for, and the figures; written last

Nothing in the folder but its marker is touched before all of it is made.
"""

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from imagegram.artifact import Artifact, changes
from imagegram.cli import UserError
from imagegram.codec import Codec, load_codec
from imagegram.codec.decoding import Decoder
from imagegram.files import atomic, write_json
from imagegram.index.folder import Index
from imagegram.metrics import copying
from imagegram.metrics.coherence import open_classifiers
from imagegram.metrics.exact import exact_figures
from imagegram.metrics.held_out import HeldOut
from imagegram.metrics.intervals import to_json
from imagegram.metrics.provenance import describe_pictures
from imagegram.metrics.registry import FIGURES_VERSION
from imagegram.report import sheets
from imagegram.samplers import Samples
from imagegram.samplers.draw import Draw

GRID = 64  # images of the contact sheet
STITCHED = 6  # images shown beside their sources
MOST_SOURCES = 6  # of each
SHEETS = ("grid", "sources", "prefixes", "seeds", "listening")
OURS = rf"(image|nearest|prefix)_[\d_]+\.png|({'|'.join(SHEETS)})\.png|(tokens|sources)\.npy|pictures\.json"
MOST_SEED = 2**63 // 1_000_000 - 1  # the noise of image i has the seed 1,000,000 * seed + i, an int64


@dataclass(frozen=True)
class Request:
    """What to make. Zeros stand for the defaults of the codec, see `completed`."""

    draw: Draw
    sequences: int  # sampled and measured
    decoded: int  # of these
    seed: int
    prefixes: int = 0  # sequences decoded from their first tokens as well
    noises: int = 0  # sequences decoded from several noises, in seeds
    timesteps: int = 0  # flow steps of a decode; 0: the codec's default
    guidance_scale: float = 0.0  # 0: the codec's default

    def completed(self, codec: Codec) -> "Request":
        """The request with every default filled in."""
        return replace(
            self,
            decoded=min(self.decoded, self.sequences),
            timesteps=self.timesteps or codec.timesteps,
            guidance_scale=self.guidance_scale or codec.guidance_scale,
        )

    def check(self, index: Index) -> None:
        """UserError where it cannot be made from `index`; of a completed request."""
        if self.sequences < 1:
            raise UserError(f"--sequences {self.sequences}: at least 1 is needed")
        if self.decoded < 0 or self.prefixes < 0 or self.noises < 0:
            raise UserError("a number of images must not be negative; 0 makes figures only")
        if not 0 <= self.seed <= MOST_SEED:
            raise UserError(f"a seed lies between 0 and {MOST_SEED}, not {self.seed}")
        if self.timesteps < 1 or self.guidance_scale < 0:
            raise UserError("timesteps must be positive, and the guidance scale not negative")
        self.draw.check(index)

    def to_json(self, index: Index, codec: Codec, held_out: HeldOut) -> dict[str, Any]:
        """What report.json records, and compares when the same command is run again: all that its figures depend on."""
        made_with = {
            "codec": codec.name,
            "revision": codec.revision,
            "index": index.identity,
            "held_out": held_out.content,
            "figures": FIGURES_VERSION,
        }
        settings = {name: value for name, value in vars(self).items() if name != "draw"}
        return self.draw.to_json() | settings | made_with


@dataclass(frozen=True)
class Generated:
    """A finished folder of generated images; its files are described at `generate`."""

    path: Path
    report: dict[str, Any]
    new: bool  # False where it was finished before


def open_codec(index: Index, name: str = "") -> Codec:
    """The codec that made the tokens of `index`; UserError where `name` or the weights at hand are another.

    `name` may be the folder where the codec lies now: its weights say what it is.
    """
    local = Path(name).expanduser().is_dir() if name else False
    if name and not local and name.partition("@")[0] != index.codec:
        raise UserError(f"{index.path} holds tokens of codec {index.codec!r}, not {name!r}: leave --codec out")
    if not local and Path(index.codec).is_absolute() and not Path(index.codec).exists():
        raise UserError(f"the codec {index.codec} of {index.path} is gone: say where it is with --codec FOLDER")
    codec = load_codec(name if local else index.codec, index.revision)
    if codec.revision != index.revision:
        raise UserError(
            f"{index.path} holds tokens of {index.codec!r} revision {index.revision}, here is {codec.revision}: "
            "tokenize and index again"
        )
    return codec


def generate(index: Index, codec: Codec, held_out: HeldOut, request: Request, out: Path) -> Generated:
    """Make the images of `request`, into `out`.

    A finished `out` of the same request is left alone; one of another request is replaced, and a line says what
    differs. UserError on bad input, or where `out` holds somebody else's files; then nothing was touched.
    """
    request = request.completed(codec)
    request.check(index)
    if request.draw.prompt and not len(held_out.tokens):
        raise UserError(f"{index.path} holds out no images whose first tokens could be a prompt")
    place = Artifact(out, "images")
    place.claim()
    asked = request.to_json(index, codec, held_out)
    with place.lock():
        before = finished(out)
        changed = changes(before["request"], asked) if before else {}
        if before and not changed and (out / "pictures.json").exists() == (request.decoded > 0):
            return Generated(out, before, new=False)
        if changed:
            print(f"{out}: replaces a finished run of other settings ({', '.join(changed.values())})")
        if not len(held_out.tokens):
            print(f"no held-out images: {index.path} holds out none, so that there are no real ones to compare with")

        started = time.monotonic()
        samples, given = draw(index, held_out, request)
        sampling_seconds = time.monotonic() - started
        rng = np.random.default_rng(request.seed)
        measures = measure(index, held_out, request, samples, rng)

        started = time.monotonic()
        decoder = Decoder(codec, request.timesteps, request.guidance_scale)
        pictures, seeds = decode(decoder, samples, request)
        decoding_seconds = time.monotonic() - started
        if len(pictures):
            measure_pictures(index, held_out, codec, pictures, measures, length=samples.tokens.shape[1], rng=rng)
        drawings = illustrate(index, decoder, request, samples, pictures, seeds)
        known = request.draw.sampler if request.draw.is_whole(index) else None
        facts = describe_pictures(index, samples.tokens[: len(pictures)], samples, known)
        for fact, row in zip(facts, given, strict=False):
            fact["given"] = held_out.origins[row].tolist()

        report = {
            "request": asked,
            "index": str(index.path),
            "sources": index.sources,
            "training_images": index.num_images,
            "held_out_images": len(held_out.tokens),
            "sequences_per_second": round(request.sequences / sampling_seconds, 1),
            "decoded_images_per_second": round(len(pictures) / decoding_seconds, 1),
            **to_json(measures),
        }
        write(out, tokens=samples.tokens, sources=origins(index, samples.sources), facts=facts, drawings=drawings)
        place.finish(report)
    return Generated(out, report, new=True)


def reconstruct_held_out(index: Index, codec: Codec, held_out: HeldOut, request: Request, out: Path) -> Generated:
    """Decode held-out images from their own tokens, in random order: what every wall of pictures is compared with.

    Into `out` what `generate` writes for as many `request.decoded` as are held out; the sources of all tokens are the
    held-out image itself. The sampler of `request` does not matter.
    """
    request = request.completed(codec)
    place = Artifact(out, "images")
    place.claim()
    asked = request.to_json(index, codec, held_out)
    asked = {"sampler": "held-out"} | {name: asked[name] for name in asked if name not in request.draw.to_json()}
    with place.lock():
        before = finished(out)
        if before and before["request"] == asked:
            return Generated(out, before, new=False)
        chosen = np.random.default_rng(request.seed).permutation(len(held_out.tokens))[: request.decoded]
        tokens = held_out.tokens[chosen]
        samples = Samples(tokens, np.full((*tokens.shape, 2), -1))
        pictures, _ = decode(Decoder(codec, request.timesteps, request.guidance_scale), samples, request)
        positions = np.broadcast_to(np.arange(tokens.shape[1])[None, :, None], (*tokens.shape, 1))
        places = np.broadcast_to(held_out.origins[chosen][:, None], (*tokens.shape, 2))
        report = {"request": asked, "index": str(index.path), "sources": index.sources}
        write(
            out,
            tokens=tokens,
            sources=np.concatenate([places, positions], 2),
            facts=describe_pictures(index, tokens) if len(tokens) else [],
            drawings=sheets.as_pictures(pictures),
        )
        place.finish(report)
    return Generated(out, report, new=True)


def finished(out: Path) -> dict[str, Any] | None:
    """The report of the finished run in `out`; None where there is none."""
    report = Artifact(out, "images").record()
    if report and "sampler" not in report["request"]:
        raise UserError(f"{out} was written by an earlier version: delete it, then run the same command again")
    return report


def draw(index: Index, held_out: HeldOut, request: Request) -> tuple[Samples, NDArray[np.int64]]:
    """Sample the token sequences; with given tokens also the held-out image that gave them to each, else nothing."""
    rng = np.random.default_rng(request.seed)
    prefix = None
    rows = np.zeros(0, np.int64)
    if request.draw.prompt:
        rows = rng.integers(0, len(held_out.tokens), request.sequences)
        prefix = held_out.tokens[rows, : request.draw.prompt]
    sampler = request.draw.sampler
    return sampler.sample(index, request.sequences, rng, length=request.draw.length, prefix=prefix), rows


def measure(
    index: Index, held_out: HeldOut, request: Request, samples: Samples, rng: np.random.Generator
) -> dict[str, dict[str, Any]]:
    """The figures of tokens, of the samples and of held-out images; exact where whole sequences are drawn."""
    measures = copying.measure(samples.tokens, index, held_out.tokens, rng)
    if request.draw.is_whole(index):
        measures["generated"] |= exact_figures(index, request.draw.sampler, held_out.tokens, np.random.default_rng(0))
    return measures


def decode(decoder: Decoder, samples: Samples, request: Request) -> tuple[Tensor, NDArray[np.int64]]:
    """The first images uint8 [n, 3, S, S], and the seeds of their noise [n]."""
    shown = samples.tokens[: request.decoded]
    seeds = request.seed * 1_000_000 + np.arange(len(shown), dtype=np.int64)
    if not len(shown):
        return torch.zeros((0, 3, 1, 1), dtype=torch.uint8), seeds
    return decoder(shown, seeds), seeds


def measure_pictures(
    index: Index,
    held_out: HeldOut,
    codec: Codec,
    pictures: Tensor,
    measures: dict[str, dict[str, Any]],
    *,
    length: int,
    rng: np.random.Generator,
) -> None:
    """Add the figures of decoded images, where enough images are held out."""
    if classifiers := open_classifiers(index, held_out, codec, length):
        for who, figures in classifiers.measure(pictures, rng).items():
            measures[who] |= figures


def illustrate(
    index: Index, decoder: Decoder, request: Request, samples: Samples, pictures: Tensor, seeds: NDArray[np.int64]
) -> dict[str, Image.Image]:
    """All pictures of the folder, by name."""
    if not len(pictures):
        return {}
    shown = samples.tokens[: min(len(pictures), GRID)]
    length = shown.shape[1]

    # Each image above its nearest training image; an exact copy looks like its original, from the same noise.
    nearest, distances = copying.nearest(shown, index.tokens)
    neighbours = pictures[: len(shown)].clone()
    others = np.flatnonzero(distances)
    if others.size:
        neighbours[others] = decoder(index.tokens[nearest[others], :length], seeds[others])
    drawings = {"grid": sheets.grid(pictures[: len(shown)], neighbours, distances == 0)}
    drawings |= sheets.as_pictures(neighbours, "nearest")

    # Images beside the training images that their tokens came from.
    few = slice(0, min(STITCHED, len(shown)))
    parts = [sheets.shares(places[:, :1])[:MOST_SOURCES] for places in samples.sources[few]]
    rows = np.array([row for part in parts for (row,), _ in part])
    originals = decoder(index.tokens[rows, :length])
    named = [[(int(index.images[row, 1]), count / length) for (row,), count in part] for part in parts]
    drawings["sources"] = sheets.provenance(pictures[few], originals, named)

    relevance = request.draw.sampler.relevance(index)
    if relevance is not None:
        drawings["listening"] = sheets.position_relevance(relevance)
    for draw_sheet, count in ((sheets.prefixes, request.prefixes), (sheets.noises, request.noises)):
        if count:
            drawings |= draw_sheet(decoder, shown[:count], seeds[: min(count, len(shown))], pictures[:count])
    return drawings | sheets.as_pictures(pictures)


def origins(index: Index, sources: NDArray[np.int64]) -> NDArray[np.int64]:
    """Rows of the index and positions [n, k, 2] -> data set, ordinal and position [n, k, 3]; -1 stays -1."""
    rows = sources[..., 0]
    images = np.where(rows[..., None] < 0, -1, index.images[rows, :2])
    return np.concatenate([images, sources[..., 1:]], 2)


def write(
    out: Path,
    tokens: NDArray[np.uint16],
    sources: NDArray[np.int64],
    facts: list[dict[str, Any]],
    drawings: dict[str, Image.Image],
) -> None:
    """Put the files of a run in place of what `out` held, but for report.json, which is to be written last."""
    (out / "report.json").unlink(missing_ok=True)
    (out / "pictures.json").unlink(missing_ok=True)
    ours = [
        *(file for kind in ("image", "nearest", "prefix") for file in out.glob(f"{kind}_*.png")),
        *(out / f"{name}.png" for name in SHEETS),
    ]
    for picture in ours:
        if picture.stem not in drawings:
            picture.unlink(missing_ok=True)
    for name, array in (("tokens", tokens), ("sources", sources)):
        with atomic(out / f"{name}.npy") as temporary, temporary.open("wb") as f:
            np.save(f, array)
    for name, drawing in drawings.items():
        with atomic(out / f"{name}.png") as temporary:
            drawing.save(temporary, "png")
    if facts:
        write_json(out / "pictures.json", facts)
