"""Sample token sequences from an index, decode them, measure what came out: one finished folder of
images.

    tokens.npy      uint16 [n, k]
    sources.npy     int64 [n, k, 3]: for every token the data set (its number in report.json's
                    "sources"), the ordinal of the image and the position it was drawn from; -1 for
                    those of a prompt
    image_0000.png  ... the decoded images
    pictures.json   what is known of each of them (metrics/provenance.py)
    grid.png        the first 64 images, each above its nearest training image
    sources.png     images beside the training images of their tokens
    prefixes.png    the first `prefixes` sequences, decoded from their first 1, 2, 4, ... tokens;
                    one by one as prefix_IMAGE_TOKENS.png
    seeds.png       the first sequences from several noises
    listening.png   which position looks at which in a sampler that was fitted
    report.json     what was asked for, and the figures; written last

Nothing in the folder but its marker is touched before all of it is made. Where several seeds are
asked for, each leaves a part, seed-SEED.npz, which any process may have drawn; they are put
together, the decoded sequences first.
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

    def to_json(self, index: Index, codec: Codec, held_out: HeldOut) -> dict[str, Any]:
        """What report.json records, and compares when the same command is run again: all that its
        figures depend on."""
        made_with = {
            "codec": codec.name,
            "revision": codec.revision,
            "index": index.identity,
            "held_out": held_out.content,
            "figures": FIGURES_VERSION,
        }
        settings = {
            name: value for name, value in vars(self).items() if name not in ("draw", "seeds")
        }
        settings |= {"seeds": self.seeds} if self.seeds > 1 else {}
        return self.draw.to_json() | settings | made_with


def open_codec(index: Index, name: str = "") -> Codec:
    """The codec that made the tokens of `index`; UserError where `name` or the weights at hand are
    another.

    Tokens that other code made (`tokens_from`) have none. `name` may be the folder where the codec
    lies now: its weights say what it is.
    """
    local = Path(name).expanduser().is_dir() if name else False
    if name and not local and name.partition("@")[0] != index.codec:
        raise UserError(
            f"{index.path} holds tokens of codec {index.codec!r}, not {name!r}: leave --codec out"
        )
    if not local and Path(index.codec).is_absolute() and not Path(index.codec).exists():
        raise UserError(
            f"the codec {index.codec} of {index.path} is gone: say where it is with --codec FOLDER"
        )
    if not index.codec:
        print(f"{index.path} holds tokens of no codec: figures alone, no pictures")
        nothing: Any = SimpleNamespace(name="", revision="", timesteps=1, guidance_scale=1.0)
        return nothing
    if is_linear(index.codec) and not local:  # it lies with the tokens
        codec: Codec = LinearCodec(index.token_folders()[0].path / FOLDER, index.codec)
    else:
        codec = load_codec(name if local else index.codec, index.revision)
    if codec.revision != index.revision:
        raise UserError(
            f"{index.path} holds tokens of {index.codec!r} revision {index.revision}, here is "
            f"{codec.revision}: tokenize and index again"
        )
    return codec


def generate(
    index: Index,
    codec: Codec,
    held_out: HeldOut,
    request: Request,
    out: Path,
    processes: Processes = ONE,
) -> "Run":
    """Make the images of `request`, into `out`; see `generating`."""
    with generating(index, codec, held_out, request, out, processes) as run:
        draw = request.draw
        for rng in run.random_generators():
            samples = draw.sampler.sample(
                index, request.sequences, rng, length=draw.length, prefix=run.prompts(draw.prompt)
            )
            run.add(samples, run.decode(samples))
        if run.new and (drawn := run.all_seeds()):
            run.save(*drawn, run.measure(*drawn))
    return run


@contextlib.contextmanager
def generating(
    index: Index,
    codec: Codec,
    held_out: HeldOut,
    request: Request,
    out: Path,
    processes: Processes = ONE,
) -> Iterator["Run"]:
    """Claim and lock `out` for the images of `request`, which the body makes where they are `new`.

    Of several `processes` each draws some of the seeds; measured and saved is what is complete. A
    finished `out` of the same request is left alone; one of another request is replaced, and a line
    says what differs. UserError on bad input, or where `out` holds somebody else's files; then
    nothing was touched.
    """
    request = request.completed(codec)
    request.check(index)
    if request.draw.prompt and not len(held_out.tokens):
        raise UserError(f"{index.path} holds out no images whose first tokens could be a prompt")
    with Run(index, codec, held_out, request, out, processes).locked(
        request.to_json(index, codec, held_out)
    ) as run:
        if run.new and not len(held_out.tokens):
            print(
                f"no held-out images: {index.path} holds out none, so that there are no real ones "
                "to compare with"
            )
        yield run


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
        self.decoder = Decoder(self.codec, self.request.timesteps, self.request.guidance_scale)
        self.seed = self.request.seed  # that is drawn now
        self.rng = np.random.default_rng(self.seed)  # of its prompts and samples
        # the held-out image that gave its prompt to each sequence
        self.given = np.zeros(0, np.int64)
        self.seeds = np.zeros(0, np.int64)  # of the noise of each image
        self.began = time.monotonic()
        self.speeds: dict[str, float] = {}

    @contextlib.contextmanager
    def locked(self, asked: dict[str, Any]) -> Iterator["Run"]:
        """Hold the folder, and look whether it is finished as `asked`; a line says what differs
        where it is not."""
        artifact = Artifact(self.path, "images")
        artifact.claim()
        with artifact.lock(self.processes.rank):
            before = artifact.record()
            changed = changes(before["request"], asked) if before else {}
            self.report = {
                "request": asked,
                "index": str(self.index.path),
                "sources": self.index.sources,
            }
            if (
                before
                and not changed
                and (self.path / "pictures.json").exists() == (self.request.decoded > 0)
            ):
                self.new = False
                self.report = before
            if changed:
                print(
                    f"{self.path}: replaces a finished run of other settings "
                    f"({', '.join(changed.values())})"
                )
            first = self.request.seed
            self.parts = Parts(
                artifact, range(first, first + self.request.seeds), self.processes, asked
            )
            yield self

    def random_generators(self) -> Iterator[np.random.Generator]:
        """One for each seed of this process that nothing is drawn from yet; what is drawn is to be
        `add`ed."""
        for seed in self.parts.missing() if self.new else ():
            self.seed = seed
            self.rng = np.random.default_rng(seed)
            self.began = time.monotonic()
            yield self.rng

    def add(self, samples: Samples, images: Tensor) -> None:
        """Keep what was drawn and decoded of a seed."""
        self.parts.add(
            self.seed, Part(samples.tokens, samples.sources, self.given, self.seeds, images.numpy())
        )

    def all_seeds(self) -> tuple[Samples, Tensor] | None:
        """What was drawn and decoded of every seed, for the first process, which waits for the
        others; None for these, and where a seed is missing."""
        part = self.parts.joined()
        if part is None:
            return None
        self.given = part.given
        self.seeds = part.noises
        return Samples(part.tokens, part.sources), torch.from_numpy(part.images)

    def prompts(self, tokens: int) -> NDArray[np.uint16] | None:
        """The first `tokens` of a held-out image for each sequence, [sequences, tokens]; None for
        0."""
        if not tokens:
            return None
        self.given = self.rng.integers(0, len(self.held_out.tokens), self.request.sequences)
        return self.held_out.tokens[self.given, :tokens]

    def decode(self, samples: Samples) -> Tensor:
        """The first `decoded` images of the samples, uint8 [n, 3, S, S]."""
        shown = samples.tokens[: self.request.decoded]
        self.seeds = self.seed * 1_000_000 + np.arange(len(shown), dtype=np.int64)
        started = time.monotonic()
        images = (
            self.decoder(shown, self.seeds)
            if len(shown)
            else torch.zeros((0, 3, 1, 1), dtype=torch.uint8)
        )
        self.speeds = {
            "sequences_per_second": round(len(samples.tokens) / (started - self.began), 1),
            "decoded_images_per_second": round(len(images) / (time.monotonic() - started), 1),
        }
        return images

    def measure(self, samples: Samples, images: Tensor) -> Figures:
        """The figures of tokens and of decoded images, of the samples and of held-out images.

        Exact ones where whole sequences are drawn, those of images where enough of them are held
        out.
        """
        print(f"measuring {len(samples.tokens):,} sequences and {len(images):,} images", flush=True)
        rng = np.random.default_rng(self.request.seed)
        figures = copying.measure(samples.tokens, self.index, self.held_out.tokens, rng)
        if self.request.draw.is_whole(self.index):
            sampler = self.request.draw.sampler
            exact = exact_figures(
                self.index, sampler, self.held_out.tokens, np.random.default_rng(0)
            )
            figures["generated"] |= exact
        length = samples.tokens.shape[1]
        if len(images) and (
            classifiers := open_classifiers(self.index, self.held_out, self.codec, length)
        ):
            for who, found in classifiers.measure(images, rng).items():
                figures[who] |= found
        return figures

    def save(self, samples: Samples, images: Tensor, figures: Figures) -> None:
        """Draw the sheets, and write everything."""
        print(f"drawing and writing {self.path}", flush=True)
        index = self.index
        request = self.request
        sampler = request.draw.sampler
        whole = request.draw.is_whole(index)
        facts = describe_pictures(
            index, samples.tokens[: len(images)], samples, sampler if whole else None
        )
        for fact, row in zip(facts, self.given, strict=False):
            fact["given"] = self.held_out.origins[row].tolist()
        self.report |= {
            "training_images": index.num_images,
            "held_out_images": len(self.held_out.tokens),
            **self.speeds,
            **to_json(figures),
        }
        rows = samples.sources[..., 0]
        origins = np.where(rows[..., None] < 0, -1, index.images[rows, :2])  # data set and ordinal
        sources = np.concatenate([origins, samples.sources[..., 1:]], 2)
        drawings = sheets.draw_all(
            self.decoder,
            index,
            samples,
            images,
            self.seeds,
            sampler,
            request.prefixes,
            request.noises,
        )
        self.write(samples.tokens, sources, facts, drawings)

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
