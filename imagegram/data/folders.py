"""A folder of pictures, with the rules of torchvision's ImageFolder: a class is a folder at the
top, in sorted order.

Beyond those rules: folders at the top that are named like splits (train/, test/) are splits, a lone
folder that only holds folders is a wrapping around the classes, pictures beside the class folders
have no class, a folder without a picture is no class, and the endings are all that Pillow knows.
Where there is a metadata.csv, .jsonl or .parquet, the labels come from it: the rule of `datasets`'
imagefolder (metadata.py).
"""

import os
import posixpath
from collections.abc import Sequence

from PIL import Image

from imagegram.cli import UserError
from imagegram.data.dataset import (
    LABEL_NAMES,
    NO_SPLITS,
    DatasetOptions,
    ImageDataset,
    contents_of,
    digest,
    first_names,
    open_picture,
    printable,
)
from imagegram.data.labels import Classes, choose, kind_of, labelled, parts_of_names
from imagegram.data.metadata import read_groups, read_labels
from imagegram.data.survey import Tree, masks_among


def read_folder(name: str, tree: Tree, wanted: DatasetOptions) -> ImageDataset:
    """The pictures of a walked folder; UserError where its folders may be classes or splits."""
    wanted.refuse(name, "a folder of pictures, whose classes are its folders", "image_column")
    if not tree.metadata:
        what = "a folder of pictures without a metadata.csv, whose classes are its folders"
        wanted.refuse(name, what, "label_column")
    everything = tree.files["pictures"]
    pictures, prefix, split, notes = _resolve(name, tree, wanted.split)

    # 1) The class stands in a table, or is the first folder below the data set's own.
    inside = [path.removeprefix(prefix) for path in pictures]
    tables = [
        table for table in tree.metadata if table.startswith(prefix) or not posixpath.dirname(table)
    ]
    found, column, said = read_labels(tree.root, tables, pictures, everything, wanted.label_column)
    notes += said
    if found:
        classes = found
    else:
        classes, said = _classes_of_folders(tree, prefix, inside)
        notes += said
    notes.append(masks_among(pictures))
    groups: Sequence[str | None] | None = None
    if wanted.group:
        groups, columns = read_groups(tree.root, tables, pictures, wanted.group)
        groups = groups or parts_of_names(name, wanted.group, inside, columns)

    # 2) Names and contents make the fingerprint, not the place and not the dates.
    files = [tree.root / path for path in pictures]
    contents = contents_of([(file, 0, None) for file in files])
    parts = [
        os.fsencode(path) + b"\0" + content for path, content in zip(inside, contents, strict=True)
    ]
    fingerprint = digest(
        [*parts, classes.labels.tobytes(), *classes.identity()] if found else parts
    )
    notes.append(contents.note)

    def read(i: int) -> Image.Image:
        if reason := tree.unreadable.get(pictures[i]):
            raise FileNotFoundError(reason)
        return open_picture(contents.read(i, files[i]))

    return labelled(
        read,
        classes,
        notes,
        groups,
        group=wanted.group,
        name=name,
        split=split,
        fingerprint=fingerprint,
        kind="a folder of pictures",
        label_column=column,
        left_out=tree.left_out(),
        name_of=lambda i: printable(pictures[i]),
    )


def _classes_of_folders(tree: Tree, prefix: str, inside: list[str]) -> tuple[Classes, list[str]]:
    """The classes of pictures `inside` the folder `prefix`, and what to say of them."""
    tops = [path.partition("/")[0] if "/" in path else None for path in inside]
    keys = {top.partition("=")[0].lower() if "=" in top else "" for top in tops if top}
    if keys and keys <= set(LABEL_NAMES):  # label=cat/, as partitioned tables are written
        tops = [top.partition("=")[2] if top else None for top in tops]
    classes = Classes.of(tops)
    notes = [classes.note] if classes.names else []
    if deep := [path for path in inside if path.count("/") > 1]:
        notes.append(
            f"{len(deep)} images in folders below their class, e.g. {printable(deep[0])}: the top "
            "one counts"
        )
    walked = {path.removeprefix(prefix) for path in tree.folders if path.startswith(prefix)}
    used = {path.partition("/")[0] for path in inside if "/" in path}
    if used and (
        empty := sorted(
            folder for folder in walked if folder and "/" not in folder and folder not in used
        )
    ):
        what = (
            "folders without a picture are no classes"
            if len(empty) > 1
            else "folder without a picture is no class"
        )
        notes.append(f"{len(empty)} {what}: {first_names(empty)}")
    return classes, notes


def _resolve(name: str, tree: Tree, wanted: str) -> tuple[list[str], str, str, list[str]]:
    """The pictures to read, the folder (with "/") that holds the class folders, the split, and what
    to say."""
    pictures = tree.files["pictures"]
    prefix = ""
    notes: list[str] = []
    while True:
        inside = [path.removeprefix(prefix) for path in pictures]
        tops = sorted({path.partition("/")[0] for path in inside if "/" in path})
        if split_folders := [top for top in tops if kind_of(top)]:
            break
        # A lone folder whose pictures all lie in folders of their own wraps the classes, or the
        # splits.
        if len(tops) != 1 or not all(path.count("/") >= 2 for path in inside):
            break
        prefix += f"{tops[0]}/"
        notes.append(
            f"the folder {printable(prefix)} holds everything: the classes are the folders in it"
        )

    deep = any(path.count("/") >= 2 for path in inside if path.partition("/")[0] in split_folders)
    kinds = {kind_of(top) for top in split_folders}
    # one class may be called `train`
    if not split_folders or (len(kinds) == 1 and not deep and len(tops) > 1):
        if wanted not in ("", NO_SPLITS):
            folders = f"its folders are {first_names(tops)}" if tops else "it holds pictures only"
            raise UserError(
                f"--split {wanted} does not apply: {name} has no splits ({folders}). Leave the "
                "option out"
            )
        return pictures, prefix, NO_SPLITS, notes

    others = [top for top in tops if top not in split_folders]
    if others:
        raise UserError(
            f"{name} holds folders that are named like splits ({first_names(split_folders)}) "
            f"beside others ({first_names(others)}): say which one is meant with --dataset "
            f"{tree.root}/{prefix}{split_folders[0]}"
        )
    split = choose(name, split_folders, wanted)
    for path, below in zip(pictures, inside, strict=True):
        top = below.partition("/")[0] if "/" in below else ""
        if top != split:
            tree.leave_out(
                f"images of the split {printable(top)}" if top else "images beside the splits", path
            )
    prefix += f"{split}/"
    notes.append(f"split {printable(split)} of {first_names(split_folders)} (--split)")
    return [path for path in pictures if path.startswith(prefix)], prefix, split, notes
