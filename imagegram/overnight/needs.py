"""What a night needs of the machine, checked before anything starts: disk, memory, and folders to write in."""

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from imagegram.cli import UserError
from imagegram.codec import Codec, load_codec
from imagegram.data.opening import Source, open_dataset
from imagegram.generating import GRID
from imagegram.index.build import disk_to_build, memory_to_build
from imagegram.machine import memory_available
from imagegram.metrics.coherence import MOST
from imagegram.overnight.plan import Plan
from imagegram.report.record import FILE, Night
from imagegram.tokens import TokenFolder

PICTURE_BYTES = 1.2  # of a PNG, for a pixel of a photo
SOURCE_BYTES = 24  # of sources.npy, for a token
PAGE_BYTES = 4e6  # the page, the log and everything else that is small
WORKING_BYTES = 1.5e9  # the program itself, and the batches that are decoded, compared and voted on at a time


@dataclass(frozen=True)
class Needs:
    """What is still to be done of a plan."""

    plan: Plan
    codec: Codec
    sources: tuple[Source, ...]
    to_tokenize: tuple[int, ...]  # images of each data set
    to_generate: tuple[str, ...]  # samplers

    @property
    def images(self) -> int:
        return sum(len(source) for source in self.sources)

    @property
    def corpus(self) -> int:
        """Tokens of the index at most: held-out images are left out of it."""
        return self.images * (self.codec.tokens_per_image + 1)

    @property
    def decodes(self) -> int:
        """Images that are decoded for a sampler at most: its own, their nearest, the sources, and the prefixes."""
        prefixes = (self.codec.tokens_per_image - 1).bit_length()
        return self.plan.decoded + min(self.plan.decoded, GRID) + 36 + self.plan.strips * prefixes

    def disk(self) -> float:
        """Bytes that are still to be written, about."""
        picture = self.codec.image_size**2 * PICTURE_BYTES
        rows = self.plan.sequences * self.codec.tokens_per_image * (2 + SOURCE_BYTES)
        tokens = sum(self.to_tokenize) * (2 * self.codec.tokens_per_image + 4)
        index = 0 if (self.plan.out / "index" / "index.json").exists() else disk_to_build(self.corpus)
        judges = 2 * min(MOST, self.images) * 3 * self.codec.image_size**2
        return tokens + index + judges + len(self.to_generate) * (self.decodes * picture + rows) + PAGE_BYTES

    def memory(self) -> float:
        """Bytes that are taken at a time, about: by the builder of the index, or by the kernel sampler."""
        needs = [memory_to_build(self.corpus), 0]
        if any(settings.method == "kernel" for settings in self.plan.all_settings().values()):
            digits = len(self.codec.levels)
            needs.append(5 * digits * self.corpus)  # a byte and a float for each digit of the codes
        return max(needs) + WORKING_BYTES


def needs_of(plan: Plan) -> Needs:
    """Look at the data sets, and at what is finished; UserError where a data set or the codec cannot be opened."""
    codec = load_codec(plan.codec)
    sources = []
    to_tokenize = []
    for data in plan.data:
        columns = data.image_column, data.label_column
        source = open_dataset(data.name, data.split, data.images, codec.image_size, *columns)
        sources.append(source)
        to_tokenize.append(images_left(plan.token_folder(data), len(source)))
    night = Night.read(plan.out) if (plan.out / FILE).exists() else None
    finished = {name for name in night.samplers if night.is_finished(plan.out, name)} if night else set()
    to_generate = tuple(name for name in plan.all_settings() if name not in finished)
    return Needs(plan, codec, tuple(sources), tuple(to_tokenize), to_generate)


def images_left(folder: Path, images: int) -> int:
    """How many of `images` a token folder does not hold yet."""
    if not (folder / "manifest.json").exists():
        return images
    tokens = TokenFolder.open(folder)
    return sum(len(tokens.range(shard)) for shard in tokens.pending())


def check_machine(needs: Needs) -> None:
    """UserError where the disk or the memory is too small, or a folder cannot be written to. Nothing is left behind."""
    out = needs.plan.out
    written = [out, out / "generated", out / "index", out / "index_input"]
    written += [needs.plan.token_folder(data) for data in needs.plan.data]
    for folder in dict.fromkeys(map(existing, written)):
        check_writable(folder)
    free = shutil.disk_usage(existing(out)).free
    if needs.disk() > free:
        raise UserError(
            f"{out} needs about {needs.disk() / 1e6:,.0f} MB, {free / 1e6:,.0f} MB are free: free some space, choose "
            "another --out, or take fewer images (--images, --decoded)"
        )
    available = memory_available()
    if needs.memory() > available:
        raise UserError(
            f"{needs.images:,} images need about {needs.memory() / 2**30:.1f} GiB of memory, "
            f"{available / 2**30:.1f} GiB are available: end other programs, or take fewer with --images"
        )


def check_writable(folder: Path) -> None:
    """UserError where no file can be made in `folder`."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(
            f"{folder} cannot be written to ({error.strerror}): give yourself the permission, or choose another --out"
        ) from None


def existing(path: Path) -> Path:
    """The folder itself, or the nearest one above it that is there."""
    return path if path.exists() else existing(path.absolute().parent)
