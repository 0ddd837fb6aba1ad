"""What names say: labels as data sets write them -> classes; names of folders and files -> splits."""

import re
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from imagegram.cli import UserError
from imagegram.data.dataset import NO_SPLITS, first_names, printable

SPARE = 1000  # numbers that no image bears may lie between those that occur: classes missing from a subset
# The words that `datasets` knows (its data_files.py).
KEYWORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation", "t10k"),
}


def from_numbers(values: Sequence[int | None]) -> tuple[NDArray[np.int32], tuple[str, ...], str]:
    """Whole numbers as labels: int32 [n], names of the classes, and a note where the numbers were changed.

    Numbers from 0 on are labels as they are; None is -1, no label, as is -1. Identifiers (large or negative numbers)
    would need a name for every number up to the largest: they become classes in their order.
    """
    known = sorted({value for value in values if value is not None and value != -1})
    if not known:
        return np.full(len(values), -1, np.int32), (), ""
    if known[0] >= 0 and known[-1] < 10 * len(known) + SPARE:
        labels = [-1 if value is None else value for value in values]
        return np.array(labels, np.int32), tuple(map(str, range(known[-1] + 1))), ""
    classes = {value: number for number, value in enumerate(known)}
    labels = [-1 if value is None else classes.get(value, -1) for value in values]
    note = f"the labels are identifiers ({known[0]} to {known[-1]}): {len(known)} classes in their order"
    return np.array(labels, np.int32), tuple(map(str, known)), note


def from_texts(values: Sequence[str | None]) -> tuple[NDArray[np.int32], tuple[str, ...]]:
    """Class names as labels: int32 [n] numbers in the order of the sorted names, and the names. None is -1."""
    classes = sorted({value for value in values if value is not None})
    numbers = {name: number for number, name in enumerate(classes)}
    labels = [-1 if value is None else numbers[value] for value in values]
    return np.array(labels, np.int32), tuple(map(printable, classes))


def from_files(texts: Sequence[str | None], names: Iterable[str]) -> tuple[NDArray[np.int32], tuple[str, ...], str]:
    """What label files hold -> labels int32 [n], class names, a note.

    Numbers where most are numbers: what is none then is no label (-1), counted in the note with the first of `names`.
    Else class names. None and empty: no label.
    """
    given = [text.strip() if text is not None else None for text in texts]
    numbers = [whole_number(text) for text in given]
    filled = sum(bool(text) for text in given)
    if filled and sum(number is not None for number in numbers) * 2 >= filled:
        labels, classes, note = from_numbers(numbers)
    else:
        labels, classes = from_texts([text or None for text in given])
        numbers = [0 if text else None for text in given]
        note = ""
    wrong = [
        f"{name}: {printable(text)[:40]!r}"
        for name, text, number in zip(names, given, numbers, strict=True)
        if text is not None and number is None
    ]
    missing = sum(text is None for text in given)
    if missing and filled:
        note += f"{'; ' * bool(note)}{missing} of {len(given)} images without a label: -1"
    if wrong:
        note += f"{'; ' * bool(note)}{len(wrong)} label{'s' * (len(wrong) > 1)} cannot be read, e.g. {wrong[0]}: -1"
    return labels, classes, note


def whole_number(text: str | None) -> int | None:
    """The number that a text is, or None."""
    try:
        return int(text) if text is not None else None
    except ValueError:
        return None


def kind_of(word: str) -> str:
    """train, validation, test, or "" where the word names no split."""
    return next((kind for kind, words in KEYWORDS.items() if word.lower() in words), "")


def split_of(path: str) -> str:
    """The split of a file by its path below the data set: a folder's whole name, or a word of its own name."""
    *folders, name = path.split("/")
    for folder in folders:
        if kind := kind_of(folder):
            return kind
    kinds = {kind for word in re.split(r"[^a-zA-Z0-9]+|(?<=[a-z]{2})(?=\d)", name) if (kind := kind_of(word))}
    return kinds.pop() if len(kinds) == 1 else ""


def choose(name: str, found: Sequence[str], wanted: str) -> str:
    """The split to read of those `found`: the one that is wanted, else the only one, else train.

    UserError with the choices where there is no such split.
    """
    if not wanted and len(found) == 1:
        return found[0]
    asked = wanted or "train"
    for split in found:
        if split == asked:
            return split
    same = [split for split in found if kind_of(split) and kind_of(split) == kind_of(asked)]
    if len(same) == 1:
        return same[0]
    raise UserError(
        f"{name} has no split {asked!r}; it has {first_names(found)}: name one with --split"
        if not same
        else f"{name} has several splits {asked!r}: {first_names(same)}: name one with --split"
    )


def files_of_split(name: str, files: Sequence[str], wanted: str) -> tuple[str, list[str], str]:
    """Of files that together are a data set, those of one split: the split, its files, and a note.

    Without splits all files are read, and asking for one is refused.
    """
    splits = {file: split_of(file) for file in files}
    found = sorted(set(splits.values()) - {""})
    if not found:
        if wanted not in ("", NO_SPLITS):
            raise UserError(f"--split {wanted} does not apply: {name} has no splits. Leave the option out")
        return NO_SPLITS, list(files), ""
    if "" in splits.values():
        other = [file for file in files if not splits[file]]
        raise UserError(
            f"{name} holds files of the split{'s' * (len(found) > 1)} {', '.join(found)} and others "
            f"({first_names(other)}): name one file or folder of them with --dataset"
        )
    split = choose(name, found, wanted)
    note = f"split {split} of {', '.join(found)} (--split)" if len(found) > 1 else f"split {split}"
    return split, [file for file in files if splits[file] == split], note
