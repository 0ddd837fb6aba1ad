"""What a night does and needs of the machine; checked before anything is touched."""

import contextlib
import itertools
import math
import random
import shutil
import sys
import tempfile
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imagegram.artifact import Artifact
from imagegram.cli import UserError
from imagegram.codec.sizes import Sizes, sizes_of
from imagegram.data.spec import DatasetSpec
from imagegram.files import nearest_existing, require_space
from imagegram.machine import memory_available
from imagegram.samplers import Sampler
from imagegram.samplers.draw import Draw

if TYPE_CHECKING:
    from imagegram.data.dataset import ImageDataset

PICTURE_BYTES = 1.2  # of a PNG, for a pixel of a photograph
SOURCE_BYTES = 24  # of sources.npy, for a token
KEPT_BYTES = 2e7  # the page, the log, the kernel's fit, the classifiers
WORKING_BYTES = 1.5e9  # of memory: the program, and its batches
SOURCES_SHOWN = 36  # pictures of sources.png


@dataclass(frozen=True)
class Plan:
    """A night over one index."""

    out: Path
    data: tuple[DatasetSpec, ...]
    codec: str
    samplers: Mapping[str, Sampler | Draw]  # all of them are run
    sweep: Mapping[str, Draw]  # as many as `hours` allow
    sequences: int  # sampled and measured for each sampler
    decoded: int  # of these
    prefixes: int  # of these, decoded from their first tokens as well
    seed: int
    hours: float = 0.0  # from the start; 0: no sweep

    def draws(self) -> dict[str, Draw]:
        """The samplers, then the rest of the sweep in random order: any part covers all of it."""
        draws = {
            name: one if isinstance(one, Draw) else Draw(one) for name, one in self.samplers.items()
        }
        if not self.hours:
            return draws
        known = draws.values()
        new = [n for n, draw in self.sweep.items() if n not in draws and draw not in known]
        random.Random(self.seed).shuffle(new)
        return draws | {name: self.sweep[name] for name in new}

    def token_folder(self, data: DatasetSpec) -> Path:
        """Where the tokens of a data set are."""
        if len(self.data) == 1:
            return self.out / "tokens"
        return self.out / f"tokens-{self.data.index(data)}-{Path(data.name).name}"

    def to_json(self) -> dict[str, Any]:
        """What decides the results."""
        # with SciPy, for which --help need not wait
        from imagegram.metrics.registry import FIGURES_VERSION

        numbers = ("sequences", "decoded", "prefixes", "seed", "hours")
        return {
            "data": [data.to_json() for data in self.data],
            "codec": self.codec,
            "samplers": {name: draw.to_json() for name, draw in self.draws().items()},
            **{name: getattr(self, name) for name in numbers},
            "figures": FIGURES_VERSION,
        }

    def check(self) -> None:
        """UserError where something cannot be right that needs neither the data nor the codec."""
        if not self.data:
            raise UserError("no data set: name one in DATASETS or with --dataset")
        if len(set(self.data)) < len(self.data):
            twice = "a data set stands twice in DATASETS"
            raise UserError(f"{twice}: its images would all be copies of each other")
        if not self.samplers:
            raise UserError("no sampler: SAMPLERS is empty")
        for data in self.data:
            if Path(data.name).is_dir() and self.out.is_dir() and self.out.samefile(data.name):
                raise UserError(
                    f"--out {self.out} is the folder of the data set, and results would lie among "
                    f"its images: choose another one, {self.out / 'results'} for example"
                )
        Artifact(self.out, "run").check()
        Artifact(self.out / "index", "index").check()
        for data in self.data:
            Artifact(self.token_folder(data), "tokens").check()
        if self.sequences < 1 or self.decoded < 0 or self.seed < 0:
            what = "--decoded and --seed must not be negative"
            raise UserError(f"--sequences must be at least 1, {what}")
        if not 0 <= self.hours < math.inf:
            what = "give a number of hours; 0 runs SAMPLERS and nothing else"
            raise UserError(f"--hours {self.hours}: {what}")
        for name in self.draws():
            if not name.translate(str.maketrans("", "", "-._")).isalnum():
                remedy = "use letters, digits, '-', '_' and '.'"
                raise UserError(f"the sampler {name!r} names a folder: {remedy}")


@contextlib.contextmanager
def constants(file: str) -> Iterator[None]:
    """Constants of the script `file`, which people edit: what is misspelt there is one line."""
    try:
        yield
    except (UserError, TypeError, NameError) as error:
        calls = traceback.extract_tb(error.__traceback__)
        lines = [call.lineno for call in calls if call.filename == file]
        sys.exit(f"error: {Path(file).name}, line {lines[-1]}: {error}")


def folder_names(datasets: Sequence[str]) -> list[str]:
    """A folder for each data set: the last part of its name, with a number where two are the same.

    >>> folder_names(["digits", "cats/train", "dogs/train"])
    ['digits', '1-train', '2-train']
    """
    paths = [Path(name) for name in datasets]
    # "." and ".." have no name of their own
    last = [path.name if path.name.strip(".") else path.resolve().name for path in paths]
    return [name if last.count(name) == 1 else f"{i}-{name}" for i, name in enumerate(last)]


def sweep(kind: type[Sampler], **values: Sequence[float]) -> dict[str, Draw]:
    """Every combination of values of the fields of a sampler and of `Draw`, by a name.

    >>> from imagegram.samplers import Ntd
    >>> list(sweep(Ntd, context=(1, 3), length=(8,)))
    ['ntd-context1-length8', 'ntd-context3-length8']
    """
    draws = {}
    for combination in itertools.product(*values.values()):
        changed: dict[str, Any] = dict(zip(values, combination, strict=True))
        name = "-".join([kind.name, *(f"{field}{value}" for field, value in changed.items())])
        parts = {field: changed.pop(field) for field in ("length", "prompt") if field in changed}
        draws[name] = Draw(kind(**changed), **parts)
    return draws


def require_writable(folder: Path) -> None:
    """UserError where no file can be made in `folder`, or where it would be created."""
    existing = nearest_existing(folder)
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        remedy = "give yourself the permission, or choose another --out"
        raise UserError(f"{existing} cannot be written to ({error.strerror}): {remedy}") from None


@dataclass(frozen=True)
class Needs:
    """What is still to be done of a plan, and what that takes of the machine."""

    plan: Plan
    codec: Sizes
    datasets: "tuple[ImageDataset, ...]"
    to_tokenize: tuple[int, ...]  # images of each data set
    to_generate: tuple[str, ...]  # samplers

    @property
    def corpus(self) -> int:
        """Tokens of the index at most: held-out images are left out of it."""
        return sum(map(len, self.datasets)) * (self.codec.tokens_per_image + 1)

    def disk(self) -> float:
        """Bytes that are still to be written, about."""
        from imagegram.index.build import disk_to_build

        plan, length = self.plan, self.codec.tokens_per_image
        pictures = 2 * plan.decoded + SOURCES_SHOWN + plan.prefixes * (length - 1).bit_length()
        each = pictures * self.codec.image_size**2 * PICTURE_BYTES
        each += plan.sequences * length * (2 + SOURCE_BYTES)
        tokens = sum(self.to_tokenize) * (2 * length + 4)
        has_index = (plan.out / "index" / "index.json").exists()
        index = 0 if has_index else disk_to_build(self.corpus)
        return tokens + index + len(self.to_generate) * each + KEPT_BYTES

    def memory(self) -> float:
        """Bytes that are taken at a time, about: by the builder of the index, or by a sampler."""
        from imagegram.index.build import memory_to_build

        samplers = [draw.sampler for draw in self.plan.draws().values()]
        drawing = [sampler.memory(self.corpus, len(self.codec.levels)) for sampler in samplers]
        return max(memory_to_build(self.corpus), *drawing) + WORKING_BYTES

    def check(self) -> None:
        """UserError where the disk or the memory is too small, or a folder cannot be written to."""
        out = self.plan.out
        tokens = [self.plan.token_folder(data) for data in self.plan.data]
        for folder in (out, out / "generated", out / "index", out / "index_input", *tokens):
            require_writable(folder)
        remedy = "free some space, choose another --out, or lower --images or --decoded"
        require_space(out, self.disk(), remedy)
        needed, available = self.memory() / 2**30, memory_available() / 2**30
        if needed > available:
            raise UserError(
                f"{sum(map(len, self.datasets)):,} images need about {needed:.1f} GiB of memory, "
                f"{available:.1f} GiB are available: end other programs, or take fewer with "
                "--images"
            )


def needs_of(plan: Plan) -> Needs:
    """Look at the data sets, and at what is finished; UserError where one cannot be opened."""
    from imagegram.data.dataset import check_different
    from imagegram.report.record import FILE, Night
    from imagegram.tokens import TokenFolder

    codec = sizes_of(plan.codec)
    datasets = [data.open(codec.image_size) for data in plan.data]
    check_different(datasets)
    to_tokenize = [len(dataset) for dataset in datasets]
    for i, data in enumerate(plan.data):
        if (plan.token_folder(data) / "manifest.json").exists():
            tokens = TokenFolder.open(plan.token_folder(data))
            to_tokenize[i] = sum(len(tokens.range(shard)) for shard in tokens.pending())
    night = Night.read(plan.out) if (plan.out / FILE).exists() else None
    to_generate = [n for n in plan.draws() if not night or not night.is_finished(plan.out, n)]
    return Needs(plan, codec, tuple(datasets), tuple(to_tokenize), tuple(to_generate))


def say_plan(plan: Plan) -> None:
    """Print what a night would do: counts, what is finished, disk and memory."""
    from imagegram.data.dataset import NO_SPLITS

    needs = needs_of(plan)
    several = "s" * (len(plan.data) > 1)
    print(f"{plan.out}: one index of {len(plan.data)} data set{several}, codec {plan.codec}")
    for dataset, missing in zip(needs.datasets, needs.to_tokenize, strict=True):
        todo = "to tokenize"
        if missing < len(dataset):
            todo = f"of which {missing:,} are still to be tokenized" if missing else "tokenized"
        split = "" if dataset.split == NO_SPLITS else f", split {dataset.split}"
        print(f"  {dataset.name}{split}: {len(dataset):,} images, {todo}")
    for name, draw in plan.draws().items():
        todo = f"{plan.sequences:,} sequences, {min(plan.decoded, plan.sequences):,} decoded"
        print(f"  {name}: {draw.describe()}; {todo if name in needs.to_generate else 'finished'}")
    free = shutil.disk_usage(nearest_existing(plan.out)).free
    print(f"  disk: about {needs.disk() / 1e6:,.0f} MB, {free / 1e6:,.0f} MB are free")
    memory, available = needs.memory() / 2**30, memory_available() / 2**30
    print(f"  memory: about {memory:.1f} GiB, {available:.1f} GiB are available")
    needs.check()
