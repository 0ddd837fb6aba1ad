"""What every reader of a data set is asked, and what it gives, an ImageDataset."""

import functools
import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from imagegram.cli import UserError
from imagegram.data.contents import ChangedError
from imagegram.data.wording import first_names, look_alikes

REASONS = 12  # lines on what was left out
SAMPLE_SEED = 0  # of the sample that --images takes
NO_SPLITS = "all"  # the split of a data set that has none; asking for it is asking for nothing


def mixed(numbers: NDArray[np.integer] | int, stream: int = 0) -> NDArray[np.uint64]:
    """A hash (SplitMix64) of whole numbers from 0 on; every `stream` is another one.

    >>> mixed(np.arange(2)).tolist()
    [16294208416658607535, 10451216379200822465]
    """
    with np.errstate(over="ignore"):
        x = np.asarray(numbers).astype(np.uint64) + np.uint64(stream << 48)
        x += np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return np.asarray(x ^ (x >> np.uint64(31)))


def permutation(n: int, seed: int = SAMPLE_SEED) -> NDArray[np.int64]:
    """The numbers below `n` in a random order, the same one on every machine.

    Many data sets are sorted by class: the front of this is the part that stands for the whole.
    """
    return np.argsort(mixed(np.arange(n), seed + 1), kind="stable")


def sample(n: int, wanted: int, seed: int = SAMPLE_SEED) -> NDArray[np.int64]:
    """A random sample of `wanted` numbers below `n`, ascending; a larger one holds a smaller one.

    >>> sample(10, 3).tolist(), sample(10, 4).tolist()
    ([1, 2, 8], [1, 2, 6, 8])
    """
    return np.sort(permutation(n, seed)[:wanted]) if wanted < n else np.arange(n)


def held_out(
    ordinals: NDArray[np.integer] | int, share: float, groups: NDArray[np.uint64] | None = None
) -> NDArray[np.bool_]:
    """Whether images are held out: a hash of the ordinal, or of its group, is below `share`.

    So the split does not depend on the size of the data set, on shards or on the order of work.
    """
    return np.asarray((mixed(ordinals) if groups is None else groups) / 2.0**64 < share)


def group_keys(names: Sequence[str | None]) -> NDArray[np.uint64]:
    """A hash for every image, the same for all of a group; an image without a group is its own."""
    keys = mixed(np.arange(len(names)))
    for i, name in enumerate(names):
        if name:
            content = hashlib.sha256(name.encode("utf-8", "surrogateescape"))
            keys[i] = int.from_bytes(content.digest()[:8], "little")
    return keys


@dataclass(frozen=True, kw_only=True)
class DatasetOptions:
    """What may be said of a data set beside its name; "" leaves the choice to the reader."""

    split: str = ""  # of a data set that has splits; "": train
    images: int = 0  # a random sample of so many images; 0: all (of shapes: 20,000)
    image_column: str = ""
    """of tables, the ending in tars, the array in .npz; "": found by type and name"""
    label_column: str = ""  # the same for labels, or a field of KEY.json in tars
    group: str = ""
    """what keeps images on one side of the held-out split: a column (as for labels), or for
    folders and tars a regular expression with (...) around that part of the file name, such as
    '([0-9]+)_view'; emoji: the code point"""

    def refuse(self, why: str, *options: str) -> None:
        """UserError where one of the options was given, which this kind of data set has not."""
        for option in options:
            given = getattr(self, option)
            if given and not (option == "split" and given == NO_SPLITS):
                what = f"--{option.replace('_', '-')} {given} does not apply"
                raise UserError(f"{what}: {why}. Leave the option out")


@dataclass(frozen=True)
class LeftOut:
    """Files (or members, or pictures) that are no part of the data set, and why."""

    reason: str
    count: int
    example: str


@dataclass(frozen=True)
class ImageDataset:
    """A data set: `read(ordinal)` -> (picture, label or -1); `fingerprint` is of its content.

    Of its `size` images a random sample of `images` is meant: those at `ordinals`.
    """

    name: str
    split: str
    fingerprint: str
    size: int
    read: Callable[[int], tuple[Image.Image, int]]
    class_names: tuple[str, ...] = ()
    image_column: str = ""
    label_column: str = ""
    kind: str = ""  # what it is, in words
    notes: tuple[str, ...] = ()  # what was chosen or assumed, a line each
    left_out: tuple[LeftOut, ...] = ()
    name_of: Callable[[int], str] = str  # where picture `i` came from: a file, tar:member, a row
    images: int = 0  # of the sample; 0: all
    group: str = ""  # a column, an expression; "": every image is on its own
    groups: NDArray[np.uint64] | None = field(default=None, compare=False)  # `group_keys`, [size]

    def __len__(self) -> int:
        return self.images or self.size

    @functools.cached_property
    def ordinals(self) -> NDArray[np.int64]:
        """The row indices of the images that are meant, ascending: int64 [len(self)]."""
        return sample(self.size, len(self))

    def held_out(self, ordinals: NDArray[np.int64], share: float) -> NDArray[np.bool_]:
        """Which of the images at `ordinals` are held out of the index, see `held_out`."""
        return held_out(ordinals, share, None if self.groups is None else self.groups[ordinals])

    def has_changed(self, ordinal: int) -> bool:
        """Whether an image, whole or broken, has changed since the data set was opened."""
        try:
            self.read(ordinal)
        except Exception as error:
            return isinstance(error, ChangedError)
        return False

    def describe(self) -> list[str]:
        """What was found, in lines for people: kind, images, notes, classes, what was left out."""
        images = f"{self.size} image{'s' * (self.size != 1)}"
        lines = [f"{self.name}: {self.kind or 'a data set'}, {images}"]
        if len(self) < self.size:
            lines.append(f"  a random {len(self)} of them, seed {SAMPLE_SEED} (--images)")
        lines += [f"  {note}" for note in self.notes]
        if self.class_names:
            count = len(self.class_names)
            lines.append(f"  {count} class{'es' * (count != 1)}: {first_names(self.class_names)}")
            if alike := look_alikes(self.class_names):
                what = "classes that differ in capitals, spaces or the form of accents alone"
                lines.append(f"  {what}: {alike}")
        else:
            lines.append("  no classes: every image has label -1, which means none")
        lines += [f"  left out: {line}" for line in counted(self.left_out)]
        return lines


def check_different(datasets: Iterable[Any]) -> None:
    """UserError where two are one; each has a name, a fingerprint and an image_column."""
    first: dict[tuple[str, str], str] = {}
    for dataset in datasets:
        pictures = dataset.fingerprint, dataset.image_column
        if pictures in first:
            same = f"{first[pictures]} and {dataset.name} are the same data set"
            raise UserError(f"{same}: its images would all be copies of each other, name it once")
        first[pictures] = dataset.name


def counted(left_out: Sequence[LeftOut]) -> list[str]:
    """A line for each reason, of REASONS at most: numbered endings make one of every file."""
    lines = [f"{left.count} {left.reason}, e.g. {left.example}" for left in left_out[:REASONS]]
    if rest := left_out[REASONS:]:
        more = f"{sum(left.count for left in rest)} more for {len(rest)} other reasons"
        lines.append(f"{more}, e.g. {rest[0].example}")
    return lines
