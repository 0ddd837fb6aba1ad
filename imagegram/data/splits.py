"""Splits by the names of folders and files, with the words that `datasets` knows (its data_files.py)."""

import re
from collections.abc import Sequence

from imagegram.cli import UserError
from imagegram.data.dataset import NO_SPLITS, first_names

KEYWORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation", "t10k"),
}


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
