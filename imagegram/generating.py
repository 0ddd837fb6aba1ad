"""Sample token sequences, decode them, measure what came out: one finished folder of images.

    tokens.npy      uint16 [n, k]
    sources.npy     int64 [n, k, 3]: the data set of every token (its number in report.json's
                    "sources"), the image's ordinal, the position in it; -1 for those of a prompt
    image_0000.png  ... the decoded images
    pictures.json   what is known of each of them (metrics/provenance.py)
    grid.png        the first 64 images, each above its nearest training image
    sources.png     images beside the training images of their tokens
    prefixes.png    the first `prefixes` sequences, decoded from their first 1, 2, 4, ... tokens;
                    one by one as prefix_IMAGE_TOKENS.png
    seeds.png       the first sequences from several noises
    listening.png   which position looks at which in a sampler that was fitted
    report.json     what was asked for, and the figures; written last

Nothing in the folder but its marker is touched before all of it is made. Each of several seeds
leaves a part, seed-SEED.npz, made by any process; put together, the decoded ones come first.
"""

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
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
from imagegram.codec.linear import LinearCodec
from imagegram.codec.linear_fit import FOLDER
from imagegram.codec.sizes import is_linear
from imagegram.files import save_array, write_json
from imagegram.index.folder import Index
from imagegram.machine import ONE, Processes
from imagegram.metrics import copying
from imagegram.metrics.coherence import open_classifiers
from imagegram.metrics.exact import exact_figures
from imagegram.metrics.held_out import HeldOut
from imagegram.metrics.intervals import to_json
from imagegram.metrics.provenance import describe_pictures
from imagegram.metrics.registry import FIGURES_VERSION
from imagegram.parts import FILES, Part, Parts
from imagegram.report import sheets
from imagegram.samplers import Samples
from imagegram.samplers.draw import Draw

# the noise of image i has the seed 1,000,000 * seed + i, an int64
MOST_SEED = 2**63 // 1_000_000 - 1
Figures = dict[str, dict[str, Any]]  # "generated" and "held_out", each by the names of the metrics


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
    seeds: int = 1  # in one report, from `seed` on: sequences and decoded are those of each

    def completed(self, codec: Codec) -> "Request":
        """The request with every default filled in."""
        return replace(
            self,
            decoded=min(self.decoded, self.sequences) if codec.name else 0,
            timesteps=self.timesteps or codec.timesteps,
            guidance_scale=self.guidance_scale or codec.guidance_scale,
        )

    def check(self, index: Index) -> None:
        """UserError where it cannot be made from `index`; of a completed request."""
        if self.sequences < 1:
            raise UserError(f"--sequences {self.sequences}: at least 1 is needed")
        if self.decoded < 0 or self.prefixes < 0 or self.noises < 0:
            raise UserError("a number of images must not be negative; 0 makes figures only")
        if self.seeds < 1:
            raise UserError(f"--seeds {self.seeds}: at least 1 is needed")
        if not 0 <= self.seed <= self.seed + self.seeds - 1 <= MOST_SEED:
            raise UserError(f"a seed lies between 0 and {MOST_SEED}, not {self.seed}")
        if self.timesteps < 1 or self.guidance_scale < 0:
            raise UserError("timesteps must be positive, and the guidance scale not negative")
        self.draw.check(index)


def open_codec(index: Index, name: str = "") -> Codec:
    """The codec that made the tokens of `index`; UserError where `name` or the weights differ.

    Tokens of `tokens_from` have none. `name` may be the folder where the codec lies now.
    """
    made_with = index.codec
    local = bool(name) and Path(name).expanduser().is_dir()
    if name and not local and name.partition("@")[0] != made_with:
        raise UserError(
            f"{index.path} holds tokens of codec {made_with!r}, not {name!r}: leave --codec out"
        )
    if not local and Path(made_with).is_absolute() and not Path(made_with).exists():
        raise UserError(
            f"the codec {made_with} of {index.path} is gone: say where it is with --codec FOLDER"
        )
    if not made_with:
        print(f"{index.path} holds tokens of no codec: figures alone, no pictures")
        nothing: Any = SimpleNamespace(name="", revision="", timesteps=1, guidance_scale=1.0)
        return nothing
    if is_linear(made_with) and not local:  # it lies with the tokens
        codec: Codec = LinearCodec(index.token_folders()[0].path / FOLDER, made_with)
    else:
        codec = load_codec(name if local else made_with, index.revision)
    if codec.revision != index.revision:
        what = f"{index.path} holds tokens of {made_with!r} revision {index.revision}"
        raise UserError(f"{what}, here is {codec.revision}: tokenize and index again")
    return codec


@dataclass
class Run:
    """One folder of generated images: what it is made from, and what was made."""

    index: Index
    codec: Codec
    held_out: HeldOut
    request: Request
    path: Path
    processes: Processes = ONE
    new: bool = True  # False where it was finished before
    report: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.request = self.request.completed(self.codec)
        self.decoder = Decoder(self.codec, self.request.timesteps, self.request.guidance_scale)
        self.speeds: dict[str, float] = {}

    def generate(self) -> "Run":
        """Make the images that were asked for; measured and saved is what all seeds are drawn of.

        A finished folder of the same request is left alone; one of another request is replaced, and
        a line says what differs. UserError, with nothing touched, on bad input or others' files.
        """
        self.request.check(self.index)
        path, none_held_out = self.index.path, not len(self.held_out.tokens)
        if self.request.draw.prompt and none_held_out:
            raise UserError(f"{path} holds out no images whose first tokens could be a prompt")
        with self.locked(self.asked()):
            if not self.new:
                return self
            if none_held_out:
                what = f"{path} holds out none, so that there are no real ones to compare with"
                print(f"no held-out images: {what}")
            for seed in self.parts.missing():
                self.parts.add(seed, self.draw(seed))
            if drawn := self.parts.joined():
                self.save(drawn, self.measure(drawn))
        return self

    def asked(self) -> dict[str, Any]:
        """All that the figures depend on: what report.json records, and a later run compares."""
        request = self.request
        left_out = ("draw", "seeds") if request.seeds == 1 else ("draw",)
        settings = {name: value for name, value in vars(request).items() if name not in left_out}
        made_with = {
            "codec": self.codec.name,
            "revision": self.codec.revision,
            "index": self.index.identity,
            "held_out": self.held_out.content,
            "figures": FIGURES_VERSION,
        }
        return request.draw.to_json() | settings | made_with

    @contextlib.contextmanager
    def locked(self, asked: dict[str, Any]) -> Iterator[None]:
        """Hold the folder, and look whether it is finished as `asked`; a line says what differs."""
        artifact = Artifact(self.path, "images")
        artifact.claim()
        with artifact.lock(self.processes.rank):
            before = artifact.record()
            changed = changes(before["request"], asked) if before else {}
            if changed:
                what = ", ".join(changed.values())
                print(f"{self.path}: replaces a finished run of other settings ({what})")
            has_pictures = (self.path / "pictures.json").exists()
            self.new = not before or bool(changed) or has_pictures != (self.request.decoded > 0)
            sources = {"index": str(self.index.path), "sources": self.index.sources}
            self.report = before if before and not self.new else {"request": asked, **sources}
            first = self.request.seed
            seeds = range(first, first + self.request.seeds)
            self.parts = Parts(artifact, seeds, self.processes, asked)
            yield

    def draw(self, seed: int) -> Part:
        """The sequences of a seed, of which the first `decoded` are decoded."""
        began = time.monotonic()
        request, draw = self.request, self.request.draw
        rng = np.random.default_rng(seed)
        given, prompts = np.zeros(0, np.int64), None
        if draw.prompt:
            given = rng.integers(0, len(self.held_out.tokens), request.sequences)
            prompts = self.held_out.tokens[given, : draw.prompt]
        samples = draw.sampler.sample(
            self.index, request.sequences, rng, length=draw.length, prefix=prompts
        )
        drawn = time.monotonic()
        images, noises = self.decode(samples.tokens, seed)
        self.speeds = {
            "sequences_per_second": round(len(samples.tokens) / (drawn - began), 1),
            "decoded_images_per_second": round(len(images) / (time.monotonic() - drawn), 1),
        }
        return Part(samples.tokens, samples.sources, given, noises, images.numpy())

    def decode(self, tokens: NDArray[np.uint16], seed: int) -> tuple[Tensor, NDArray[np.int64]]:
        """The first `decoded` images, uint8 [n, 3, S, S], and the seeds of their noise, [n]."""
        shown = tokens[: self.request.decoded]
        noises = seed * 1_000_000 + np.arange(len(shown), dtype=np.int64)
        nothing = torch.zeros((0, 3, 1, 1), dtype=torch.uint8)
        return self.decoder(shown, noises) if len(shown) else nothing, noises

    def measure(self, drawn: Part) -> Figures:
        """The figures of tokens and images, of drawn and of held-out ones: exact ones where whole
        sequences are drawn, those of images where enough of them are held out."""
        tokens, real = drawn.tokens, self.held_out.tokens
        images = torch.from_numpy(drawn.images)
        print(f"measuring {len(tokens):,} sequences and {len(images):,} images", flush=True)
        rng = np.random.default_rng(self.request.seed)
        figures = copying.measure(tokens, self.index, real, rng)
        if self.request.draw.is_whole(self.index):
            sampler, apart = self.request.draw.sampler, np.random.default_rng(0)
            figures["generated"] |= exact_figures(self.index, sampler, real, apart)
        if not len(images):
            return figures
        length = tokens.shape[1]
        if classifiers := open_classifiers(self.index, self.held_out, self.codec, length):
            for who, found in classifiers.measure(images, rng).items():
                figures[who] |= found
        return figures

    def save(self, drawn: Part, figures: Figures) -> None:
        """Draw the sheets, and write everything."""
        print(f"drawing and writing {self.path}", flush=True)
        index, request = self.index, self.request
        sampler = request.draw.sampler
        samples, images = Samples(drawn.tokens, drawn.sources), torch.from_numpy(drawn.images)
        known = sampler if request.draw.is_whole(index) else None
        facts = describe_pictures(index, drawn.tokens[: len(images)], samples, known)
        for fact, row in zip(facts, drawn.given, strict=False):
            fact["given"] = self.held_out.origins[row].tolist()
        self.report |= {
            "training_images": index.num_images,
            "held_out_images": len(self.held_out.tokens),
            **self.speeds,
            **to_json(figures),
        }
        rows = drawn.sources[..., 0]
        origins = np.where(rows[..., None] < 0, -1, index.images[rows, :2])  # data set and ordinal
        sources = np.concatenate([origins, drawn.sources[..., 1:]], 2)
        strips = request.prefixes, request.noises
        shown = samples, images, drawn.noises
        drawings = sheets.draw_all(self.decoder, index, *shown, sampler, *strips)
        self.write(drawn.tokens, sources, facts, drawings)

    def write(
        self,
        tokens: NDArray[np.uint16],
        sources: NDArray[np.int64],
        facts: list[dict[str, Any]],
        drawings: dict[str, Image.Image],
    ) -> None:
        """Put the files of a run in place of what the folder held, report.json last."""
        (self.path / "report.json").unlink(missing_ok=True)
        (self.path / "pictures.json").unlink(missing_ok=True)
        save_array(self.path / "tokens.npy", tokens)
        save_array(self.path / "sources.npy", sources)
        sheets.save_all(self.path, drawings)
        if facts:
            write_json(self.path / "pictures.json", facts)
        Artifact(self.path, "images").finish(self.report)
        for part in self.path.glob(FILES):
            part.unlink(missing_ok=True)
