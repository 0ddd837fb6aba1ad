"""Walk a folder and sort its files by kind; unsupported files are counted with a reason."""

import errno
import functools
import os
import re
import stat
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from PIL import Image

from imagegram.artifact import MARKER
from imagegram.cli import UserError
from imagegram.data.dataset import DatasetOptions, LeftOut
from imagegram.data.labels import files_of_split
from imagegram.data.metadata import NAMES as METADATA
from imagegram.data.wording import printable

STORES = {"@eaDir", "@Recycle", "#recycle"}  # of network drives
SYSTEM = {"__MACOSX", "lost+found", "$RECYCLE.BIN", "System Volume Information", *STORES}
# Pillow knows these endings, but opens them only with other programs or not as pictures.
NOT_PICTURES = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "PDF", "WMF"}
UNOPENED = {".heic", ".heif", ".jxl", ".svg", ".exr", ".hdr"}
RAW = {".cr2", ".cr3", ".nef", ".arw", ".dng", ".orf", ".rw2", ".raw"}
SAVED = ("dataset_dict.json", "state.json")  # what `datasets` writes
ZIPPED = {".zip", ".7z", ".rar"}
TABLES = {".csv", ".tsv", ".xlsx", ".jsonl"}
LEFT_OUT = [
    (UNOPENED | RAW, "pictures, which Pillow does not open (convert them to JPEG or PNG)"),
    (ZIPPED, "archives, which are not looked into (unpack them)"),
    (TABLES, "tables (labels come from a metadata.csv with the columns file_name, label)"),
]
COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst")
IDX = re.compile(r"idx\d-?u?byte(\.gz)?$")
MASK = re.compile(r"(?i)(?:(.+)[ _.-])?(masks?|seg(mentation(class)?)?s?|trimaps?|depths?|labels?)")
Place = tuple[int, int]  # the device and the number of a folder
KINDS = {
    "pictures": "pictures",
    "tars": ".tar files",
    "compressed": "compressed .tar files",
    "tables": "parquet files",
    "idx": "IDX files",
    "npz": "NumPy archives (.npz)",
    "saved": "data sets saved by `datasets`",
}


@functools.cache
def endings() -> set[str]:
    """The endings of all pictures that Pillow opens, in lower case."""
    Image.init()
    known = Image.registered_extensions().items()
    return {ending for ending, kind in known if kind in Image.OPEN and kind not in NOT_PICTURES}


def masks_among(pictures: Sequence[str]) -> str:
    """A line about pictures named like masks: X_mask beside X, masks/X beside images/X; else ""."""
    places = [PurePath(picture) for picture in pictures]
    beside = {(place.parent, place.stem) for place in places}
    elsewhere = {place.stem for place in places if not MASK.fullmatch(place.parent.name)}

    def is_mask(place: PurePath) -> bool:
        named = MASK.fullmatch(place.stem)
        of_another = named is not None and (place.parent, named[1]) in beside
        return of_another or (place.stem in elsewhere and bool(MASK.fullmatch(place.parent.name)))

    if not (masks := list(filter(is_mask, places))):
        return ""
    what = f"{len(masks)} pictures are named like masks of others"
    return f"{what}, e.g. {printable(str(masks[0]))}: move them if they are"


@dataclass
class Tree:
    """The files below a folder by kind, as paths from it with "/", sorted by folder and name."""

    root: Path
    files: dict[str, list[str]] = field(default_factory=lambda: {kind: [] for kind in KINDS})
    unreadable: dict[str, str] = field(default_factory=dict)  # pictures -> the reason
    folders: list[str] = field(default_factory=list)  # all that were walked, without the root
    metadata: list[str] = field(default_factory=list)  # tables of labels (metadata.py)
    reasons: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)

    def leave_out(self, reason: str, path: str, count: int = 1) -> None:
        """Count what is no part of the data set."""
        self.reasons[reason] += count
        self.examples.setdefault(reason, path)

    def of_split(self, name: str, kind: str, wanted: DatasetOptions) -> tuple[str, list[str], str]:
        """As `files_of_split`, of the files of a kind; those of other splits are left out."""
        split, files, note = files_of_split(name, self.files[kind], wanted)
        for file in self.files[kind]:
            if file not in files:
                self.leave_out(f"{KINDS[kind]} of other splits", file)
        return split, files, note

    def left_out(self) -> tuple[LeftOut, ...]:
        """All that was left out, most first."""
        reasons = self.reasons.most_common()
        return tuple(LeftOut(why, n, printable(self.examples[why])) for why, n in reasons)


def survey(root: Path) -> Tree:
    """Walk a folder: every file below it is of a kind, or is left out with a reason.

    Follows links as torchvision's ImageFolder does, but not in circles. A link to nothing is a
    picture that cannot be read if it has a picture's ending. UserError where a folder cannot be.
    """
    tree = Tree(root)
    top = root.stat()
    waiting: list[tuple[str, Sequence[Place]]] = [("", [(top.st_dev, top.st_ino)])]
    while waiting:
        prefix, above = waiting.pop()
        entries = _entries(root / prefix)
        names = {entry.name for entry in entries if prefix}
        if not names.isdisjoint(SAVED):
            tree.files["saved"].append(prefix.rstrip("/"))
            continue
        if MARKER in names:
            tree.leave_out("files of Imagegram's own results", prefix, _below(root / prefix))
            continue
        for entry in entries:
            path = f"{prefix}{entry.name}"
            if entry.name.startswith(".") or entry.name in SYSTEM:
                tree.leave_out("hidden or system files", path, _below(Path(entry.path)))
            elif place := _visit(tree, entry, path, above):
                tree.folders.append(path)
                waiting.append((f"{path}/", (*above, place)))
    for files in (*tree.files.values(), tree.folders, tree.metadata):
        files.sort(key=lambda path: path.split("/"))
    return tree


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """What a folder holds, sorted; UserError where that cannot be read or looked at."""
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        for entry in entries[:1]:
            entry.stat(follow_symlinks=False)
    except OSError as error:
        raise cannot_read(folder, error) from None
    return entries


def cannot_read(folder: Path, error: OSError) -> UserError:
    """That a folder, or one that a link in it points to, cannot be read."""
    what = f"cannot read the folder {printable(str(folder))} ({error.strerror})"
    remedy = "give yourself the permission or move it elsewhere"
    return UserError(f"{what}: {remedy}; its images would be missing")


def _visit(tree: Tree, entry: os.DirEntry[str], path: str, above: Sequence[Place]) -> Place | None:
    """Sort one entry into its kind; where it is a folder to be walked, its place."""
    ending = PurePath(entry.name).suffix.lower()
    try:
        status = entry.stat()
    except OSError as error:  # a link to nothing, or in a circle of links
        if ending in endings():
            tree.files["pictures"].append(path)
            gone = error.errno == errno.ENOENT
            tree.unreadable[path] = "the link's target is gone" if gone else str(error.strerror)
        elif error.errno == errno.EACCES:  # it may be a class
            raise cannot_read(tree.root / path, error) from None
        else:
            tree.leave_out("links whose target is gone", path)
        return None
    place = status.st_dev, status.st_ino
    if stat.S_ISDIR(status.st_mode) and place not in above:
        return place
    if stat.S_ISDIR(status.st_mode):
        tree.leave_out("links to a folder above them", path)
    elif not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for ever
        tree.leave_out("pipes, sockets or devices", path)
    elif entry.name in METADATA:
        tree.metadata.append(path)
    elif kind := kind_of_file(entry.name):
        tree.files[kind].append(path)
    else:
        what = next((what for of_these, what in LEFT_OUT if ending in of_these), "files")
        tree.leave_out(f"{printable(ending)} {what}" if ending else "files without an ending", path)
    return None


def kind_of_file(name: str) -> str:
    """The kind of a file among KINDS, "" for none."""
    name = name.lower()
    ending = PurePath(name).suffix
    if ending in endings():
        return "pictures"
    if name.endswith(COMPRESSED):
        return "compressed"
    if IDX.search(name):
        return "idx"
    return {".tar": "tars", ".parquet": "tables", ".npz": "npz"}.get(ending, "")


def _below(path: Path) -> int:
    """The files below a folder that is left out; 1 for a file, a link, and an empty folder."""
    return 1 if path.is_symlink() else max(1, sum(len(files) for _, _, files in os.walk(path)))
