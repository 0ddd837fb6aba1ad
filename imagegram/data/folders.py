"""A folder of pictures, with the rules of torchvision's ImageFolder: a class is a top folder.

Beyond those rules: folders at the top that are named like splits (train/, test/) are splits, a lone
folder that only holds folders is a wrapping around the classes, pictures beside the class folders
have no class, a folder without a picture is no class, and the endings are all that Pillow knows.
Where there is a metadata.csv, .jsonl or .parquet, the labels come from it (metadata.py).
"""

import os
from collections.abc import Sequence

from PIL import Image

from imagegram.cli import UserError
from imagegram.data.columns import LABEL_NAMES
from imagegram.data.contents import Part, contents_of, digest, open_picture
from imagegram.data.dataset import NO_SPLITS, DatasetOptions, ImageDataset
from imagegram.data.labels import Classes, choose, kind_of, labelled, parts_of_names
from imagegram.data.metadata import Tables
from imagegram.data.survey import Tree, masks_among
from imagegram.data.wording import first_names, printable


def read_folder(name: str, tree: Tree, wanted: DatasetOptions) -> ImageDataset:
    """The pictures of a walked folder; UserError where its folders may be classes or splits."""
    kind, rule = "a folder of pictures", "whose classes are its folders"
    wanted.refuse(f"{name} is {kind}, {rule}", "image_column")
    if not tree.metadata:
        wanted.refuse(f"{name} is {kind} without a metadata.csv, {rule}", "label_column")
    pictures, prefix, split, notes = _resolve(name, tree, wanted)

    # 1) The class stands in a table, or is the first folder below the data set's own.
    inside = [path.removeprefix(prefix) for path in pictures]
    beside = [path for path in tree.metadata if path.startswith(prefix) or "/" not in path]
    table = Tables.read(tree.root, beside)
    found, column, said = table.labels(pictures, tree.files["pictures"], wanted.label_column)
    classes, more = (found, []) if found else _classes_of_folders(tree, prefix, inside)
    groups: Sequence[object] | None = None
    if wanted.group and wanted.group in table.columns:
        groups = table.texts(pictures, wanted.group, "groups")
    elif wanted.group:
        groups = parts_of_names(name, wanted.group, inside, table.columns)

    # 2) Names and contents make the fingerprint, not the place and not the dates.
    contents = contents_of([Part(tree.root / path) for path in pictures])
    parts = contents.named(map(os.fsencode, inside))
    if found:
        parts += [classes.labels.tobytes(), *classes.identity()]

    def read(i: int) -> Image.Image:
        if reason := tree.unreadable.get(pictures[i]):
            raise FileNotFoundError(reason)
        return open_picture(contents.read(i))

    return labelled(
        read,
        classes,
        [*notes, *said, *more, masks_among(pictures), contents.note],
        groups,
        group=wanted.group,
        name=name,
        split=split,
        fingerprint=digest(parts),
        kind=kind,
        label_column=column,
        left_out=tree.left_out(),
        name_of=lambda i: printable(pictures[i]),
    )


def _classes_of_folders(tree: Tree, prefix: str, inside: list[str]) -> tuple[Classes, list[str]]:
    """The classes of pictures `inside` the folder `prefix`, and what to say of them."""
    tops = [_top(path) or None for path in inside]
    used = {top for top in tops if top}
    keys = {top.partition("=")[0].lower() if "=" in top else "" for top in used}
    if keys and keys <= set(LABEL_NAMES):  # label=cat/, as partitioned tables are written
        tops = [top.partition("=")[2] if top else None for top in tops]
    classes = Classes.of(tops)
    notes = [classes.note] if classes.names else []
    if deep := [path for path in inside if path.count("/") > 1]:
        what = f"{len(deep)} images in folders below their class, e.g. {printable(deep[0])}"
        notes.append(f"{what}: the top one counts")
    walked = [path.removeprefix(prefix) for path in tree.folders if path.startswith(prefix)]
    if used and (empty := sorted({path.partition("/")[0] for path in walked} - used)):
        one = "folder without a picture is no class"
        several = "folders without a picture are no classes"
        notes.append(f"{len(empty)} {several if empty[1:] else one}: {first_names(empty)}")
    return classes, notes


def _top(path: str) -> str:
    """The first folder of a path, "" where it has none."""
    return path.rpartition("/")[0].partition("/")[0]


def _resolve(
    name: str, tree: Tree, wanted: DatasetOptions
) -> tuple[list[str], str, str, list[str]]:
    """The pictures to read, the folder (with "/") of the class folders, the split, what to say."""
    pictures = tree.files["pictures"]
    prefix = ""
    notes: list[str] = []
    while True:
        inside = [path.removeprefix(prefix) for path in pictures]
        tops = sorted({*map(_top, inside)} - {""})
        # A lone folder whose pictures all lie in folders of their own wraps classes, or splits.
        wraps = len(tops) == 1 and all(path.count("/") >= 2 for path in inside)
        if not wraps or kind_of(tops[0]):
            break
        prefix += f"{tops[0]}/"
        wrapping = f"the folder {printable(prefix)} holds everything"
        notes.append(f"{wrapping}: the classes are the folders in it")

    named = [top for top in tops if kind_of(top)]
    deep = any(path.count("/") >= 2 for path in inside if _top(path) in named)
    # one class may be called `train`
    if not named or (len(set(map(kind_of, named))) == 1 and not deep and len(tops) > 1):
        folders = f"its folders are {first_names(tops)}" if tops else "it holds pictures only"
        wanted.refuse(f"{name} has no splits ({folders})", "split")
        return pictures, prefix, NO_SPLITS, notes

    if others := [top for top in tops if top not in named]:
        both = f"named like splits ({first_names(named)}) beside others ({first_names(others)})"
        one = f"say which one is meant with --dataset {tree.root}/{prefix}{named[0]}"
        raise UserError(f"{name} holds folders that are {both}: {one}")
    split, note = choose(name, named, wanted.split)
    for path, top in zip(pictures, map(_top, inside), strict=True):
        if top != split:
            reason = f"images of the split {top}" if top else "images beside the splits"
            tree.leave_out(reason, path)
    prefix += f"{split}/"
    chosen = [path for path in pictures if path.startswith(prefix)]
    return chosen, prefix, split, [*notes, note]
