"""What names say: labels of data sets -> classes; names of folders and files -> splits."""

import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from imagegram.cli import UserError
from imagegram.data.contents import digest
from imagegram.data.dataset import NO_SPLITS, DatasetOptions, ImageDataset, group_keys
from imagegram.data.wording import first_names, printable

# The words that `datasets` knows (its data_files.py).
KEYWORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation", "t10k"),
}
NUMBER = re.compile(r"(0|-?[1-9][0-9]*)(\.0)?")  # as a program writes it; 01 and 1_0 are names
MISSING = {"nan", "NaN"}  # among numbers: as programs write one that is not there
NO_LABEL = -1  # in a file of labels; all others are rows of the names of the classes


@dataclass(frozen=True)
class Classes:
    """The classes of n images: `labels` int32 [n], rows of `names` or NO_LABEL; what to say."""

    labels: NDArray[np.int32]
    names: tuple[str, ...] = ()
    note: str = ""

    @classmethod
    def of(cls, texts: Sequence[str | None]) -> "Classes":
        """A class for every text that occurs, named by it; None and "" are no label.

        Numbers are in their order where all are numbers, else the texts are in theirs.

        >>> found = Classes.of(["10", "9", None, "9"])
        >>> found.labels.tolist(), found.names
        ([1, 0, -1, 0], ('9', '10'))
        """
        given = [text or "" for text in texts]
        known = {text for text in given if text}
        numbers = {text: found for text in known if (found := NUMBER.fullmatch(text))}
        if numbers and known - numbers.keys() <= MISSING:
            given = [text if text in numbers else "" for text in given]
            known = set(numbers)
        notes = []
        if len(numbers) == len(known) and len({found[2] for found in numbers.values()}) < 2:
            order = sorted(known, key=lambda text: int(numbers[text][1]))
            names = [numbers[text][1] for text in order]
            if minus := given.count("-1"):
                notes.append(f"{minus} labels are -1: a class like the others")
        else:
            order = names = sorted(known)
            others = [text for text in order if text not in numbers]
            if others and 2 * sum(text in numbers for text in given) > len(given) - given.count(""):
                example = f"not all labels are numbers, e.g. {printable(others[0])[:40]!r}"
                notes.append(f"{example}: classes are named by their text")
        if known and (missing := given.count("")):
            notes.append(f"{missing} of {len(given)} images have no label")
        rows = {text: row for row, text in enumerate(order)} | {"": NO_LABEL}
        labels = np.array([rows[text] for text in given], np.int32)
        return cls(labels, tuple(map(printable, names)), "; ".join(notes))

    @classmethod
    def of_cells(cls, values: Sequence[object], where: str) -> "Classes":
        """A class for every value, see `text_of`; none of measurements, which `where` holds."""
        if fraction := fraction_among(values):
            return cls.none(len(values), f"{where} {fraction}, no classes: no image has a label")
        return cls.of([text_of(value) for value in values])

    @classmethod
    def of_names(cls, names: Sequence[str], texts: Sequence[str | None], unknown: int) -> "Classes":
        """The classes are given; texts among them, or None. `unknown` labels were none of them."""
        rows: dict[str | None, int] = {name: row for row, name in enumerate(names)}
        labels = np.array([rows.get(text, NO_LABEL) for text in texts], np.int32)
        notes = [f"{unknown} labels are none of the {len(names)} classes: no label"] * bool(unknown)
        if missing := texts.count(None) - unknown:
            notes.append(f"{missing} of {len(labels)} images have no label")
        return cls(labels, tuple(names), "; ".join(notes))

    @classmethod
    def none(cls, images: int, note: str = "") -> "Classes":
        """No image has a label."""
        return cls(np.full(images, NO_LABEL, np.int32), (), note)

    def identity(self) -> list[bytes]:
        """The names, for a fingerprint that has the labels; nothing where they are 0, 1, 2, ..."""
        numbered = self.names == tuple(map(str, range(len(self.names))))
        return [] if numbered else [*map(os.fsencode, self.names)]


def labelled(
    picture: Callable[[int], Image.Image],
    classes: Classes,
    notes: Iterable[str],
    groups: Sequence[object] | None = None,
    **facts: Any,
) -> ImageDataset:
    """The data set of pictures with classes and cells that name groups; empty notes are none."""
    if groups is not None:
        names = [text_of(cell) for cell in groups]
        keys = group_keys(names)
        facts["groups"] = keys
        facts["fingerprint"] = digest([facts["fingerprint"].encode(), keys.tobytes()])
        said = f"{len(np.unique(keys))} groups by {facts['group']}"
        said += ", each on one side of the held-out split"
        alone = sum(not name for name in names)
        notes = [*notes, said + f"; {alone} images are in none, each on its own" * bool(alone)]
    return ImageDataset(
        size=len(classes.labels),
        read=lambda i: (picture(i), int(classes.labels[i])),
        class_names=classes.names,
        notes=tuple(filter(None, notes)),
        **facts,
    )


def parts_of_names(
    name: str, wanted: str, files: Sequence[str], columns: Iterable[str]
) -> list[str | None]:
    """The part of every file's name that a regular expression marks by (...), None for no match.

    UserError where `wanted`, none of `columns`, is no such expression or matches no name.
    """
    try:
        expression = re.compile(wanted)
    except re.error as error:
        raise UserError(f"--group {wanted} is no regular expression ({error})") from None
    if not expression.groups:
        has = f"{name} has no column {wanted!r} (it has {first_names(columns) or 'no columns'})"
        group = "with (...) around the part of the file name that is the group"
        raise UserError(f"{has}: --group takes a column, or a regular expression {group}")
    found = [match[1] if (match := expression.search(file)) else None for file in files]
    if not any(found):
        example = printable(files[0])
        raise UserError(f"--group {wanted} finds nothing in the names of the files, e.g. {example}")
    return found


def text_of(value: object) -> str | None:
    """A cell as the text that names its class; None where it is empty.

    >>> text_of(3.0), text_of(True), text_of(0.5), text_of(float("nan")), text_of("café".encode())
    ('3', '1', '0.5', None, 'café')
    """
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    if isinstance(value, float | np.floating):
        if np.isnan(value):
            return None
        return str(int(value)) if float(value).is_integer() else str(value)
    if isinstance(value, bool | np.bool_):
        return str(int(value))
    return None if value is None else str(value)


def fraction_among(values: Iterable[object]) -> str:
    """The first number with a fraction, which makes values measurements and no classes, or ""."""
    numbers = (float(value) for value in values if isinstance(value, float | np.floating))
    fractions = (one for one in numbers if not np.isnan(one) and not one.is_integer())
    return next((f"{one:g}" for one in fractions), "")


def kind_of(word: str) -> str:
    """train, validation, test, or "" where the word names no split."""
    return next((kind for kind, words in KEYWORDS.items() if word.lower() in words), "")


def split_of(path: str) -> str:
    """The split of a file by its path below the data set: a folder's name, or a word of its own."""
    *folders, name = path.split("/")
    for folder in folders:
        if kind := kind_of(folder):
            return kind
    kinds = set(map(kind_of, re.split(r"[^a-zA-Z0-9]+|(?<=[a-z]{2})(?=\d)", name))) - {""}
    return kinds.pop() if len(kinds) == 1 else ""


def choose(name: str, found: Sequence[str], wanted: str) -> tuple[str, str]:
    """The split to read of those `found`, and a note: the wanted, else the only one, else train.

    UserError with the choices where there is no such split.
    """
    asked = wanted or (found[0] if len(found) == 1 else "train")
    same = [split for split in found if kind_of(split) and kind_of(split) == kind_of(asked)]
    if asked not in found and len(same) != 1:
        several = f"several splits {asked!r}: {first_names(same)}"
        none = f"no split {asked!r}; it has {first_names(found)}"
        raise UserError(f"{name} has {several if same else none}: name one with --split")
    split = asked if asked in found else same[0]
    return split, f"split {split} of {', '.join(found)} (--split)"


def files_of_split(
    name: str, files: Sequence[str], wanted: DatasetOptions
) -> tuple[str, list[str], str]:
    """Of files that together are a data set, those of one split: the split, its files, and a note.

    Without splits all files are read, and asking for one is refused.
    """
    splits = {file: split_of(file) for file in files}
    found = sorted(set(splits.values()) - {""})
    if not found:
        wanted.refuse(f"{name} has no splits", "split")
        return NO_SPLITS, list(files), ""
    if other := [file for file in files if not splits[file]]:
        both = f"split{'s' * (len(found) > 1)} {', '.join(found)} and others ({first_names(other)})"
        remedy = "name one file or folder of them with --dataset"
        raise UserError(f"{name} holds files of the {both}: {remedy}")
    split, note = choose(name, found, wanted.split)
    note = note if len(found) > 1 else f"split {split}"
    return split, [file for file in files if splits[file] == split], note
