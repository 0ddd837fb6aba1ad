"""WebDataset tars, with the rules of `webdataset` (tariterators.py) and of `datasets`' loader of
the same name.

The files of a sample share a key: the path up to the first dot of the base name. What follows the
dot is the column: `cats/007.jpg`, `cats/007.cls` and `cats/007.json` are the columns jpg, cls and
json of the sample `cats/007`. One column is the picture; its label is in cls or in a field of json.
Of members with the same name the last one counts, as for tar itself.
"""

import json
import posixpath
import re
import tarfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from imagegram.cli import UserError
from imagegram.data.dataset import (
    LABEL_NAMES,
    DatasetOptions,
    ImageDataset,
    contents_of,
    counted,
    digest,
    first_names,
    open_picture,
    printable,
)
from imagegram.data.labels import Classes, labelled, parts_of_names, text_of
from imagegram.data.survey import Tree, endings

KEY = re.compile(r"^((?:.*/|)[^./][^./]*)[.]([^/]*)$")  # webdataset's base_plus_ext: key and column


@dataclass(frozen=True)
class Member:
    """Where the bytes of a member lie in its tar; size -1: nowhere."""

    tar: Path
    name: str
    place: str  # TAR:NAME, printable
    offset: int
    size: int

    def text(self) -> str | None:
        """Its content as text, None where it lies nowhere."""
        if self.size < 0:
            return None
        with self.tar.open("rb") as file:
            file.seek(self.offset)
            return file.read(self.size).decode("utf-8", "surrogateescape").strip()


Sample = dict[str, Member]  # by column


def read_tars(name: str, tree: Tree, wanted: DatasetOptions) -> ImageDataset:
    """All samples with a picture of the tars below a folder (or of one tar)."""
    split, files, note = tree.of_split(name, "tars", wanted.split)
    scanned = [_scan(tree.root / file, printable(file), tree) for file in files]
    warnings = [f"warning: {flaw}" for _, flaw in scanned if flaw]

    # 1) One column holds the picture.
    samples = [sample for found, _ in scanned for sample in found]
    columns = _image_columns(name, samples, wanted.image_column, tree)
    samples = [sample for sample in samples if not sample.keys().isdisjoint(columns)]
    pictures = [
        next(sample[column] for column in columns if column in sample) for sample in samples
    ]
    if not pictures:
        left = "; ".join(counted(tree.left_out()) + warnings)
        raise UserError(f"{name} holds no images{': ' * bool(left)}{left}")

    # 2) Labels, from the files that belong to it.
    texts, label_column, label_hint = _label_texts(name, samples, pictures, wanted.label_column)
    classes = Classes.of(texts)
    groups = _groups(name, samples, pictures, wanted.group) if wanted.group else None

    # 3) Names, labels and contents make the fingerprint.
    contents = contents_of(
        [(picture.tar, picture.offset, max(picture.size, 0)) for picture in pictures]
    )
    parts = (
        f"{picture.place} {label}".encode() + b"\0" + content
        for picture, label, content in zip(pictures, classes.labels, contents, strict=True)
    )

    def read(i: int) -> Image.Image:
        picture = pictures[i]
        if picture.size < 0:
            raise FileNotFoundError("a link to a member that the tar does not hold")
        return open_picture(contents.read(i, picture.tar, picture.offset, picture.size))

    labels = f"labels from {label_column}" if label_column else "no labels"
    notes = [note, f"images from {', '.join(columns)}, {labels}", label_hint]
    return labelled(
        read,
        classes,
        [*notes, classes.note, contents.note, *warnings],
        groups,
        group=wanted.group,
        name=name,
        split=split,
        fingerprint=digest([*parts, *classes.identity()]),
        image_column=wanted.image_column,
        label_column=label_column,
        kind=f"WebDataset, {len(files)} tar{'s' * (len(files) > 1)}",
        left_out=tree.left_out(),
        name_of=lambda i: pictures[i].place,
    )


def _groups(
    name: str, samples: list[Sample], pictures: list[Member], wanted: str
) -> list[str | None]:
    """The group of every picture, from a file that belongs to it, else from its name."""
    columns = sorted({column for sample in samples for column in sample})
    names = [picture.name for picture in pictures]
    return _texts_in(samples, wanted) or parts_of_names(name, wanted, names, columns)


def _scan(path: Path, shown: str, tree: Tree) -> tuple[list[Sample], str]:
    """The samples of a tar, and its flaw: one that ends early keeps what is complete."""
    with path.open("rb") as f:
        if f.read(2) in (b"\x1f\x8b", b"BZ", b"\xfd7", b"(\xb5"):
            raise UserError(
                f"{path} is compressed: decompress it first (gunzip, bunzip2, unxz, unzstd)"
            )
    found: dict[str, tuple[int, int] | str] = {}
    superseded = 0
    flaw = ""
    length = path.stat().st_size
    try:
        with tarfile.open(path, "r:") as tar:
            for info in tar:
                name = posixpath.normpath(info.name)
                if info.isdir():
                    continue
                superseded += found.pop(name, None) is not None
                if info.islnk():
                    found[name] = posixpath.normpath(info.linkname)
                elif info.issym():
                    found[name] = posixpath.normpath(
                        posixpath.join(posixpath.dirname(name), info.linkname)
                    )
                elif not info.isreg() or info.issparse():
                    tree.leave_out(
                        "members of tars that are no plain files", f"{shown}:{printable(name)}"
                    )
                elif info.offset_data + info.size > length:
                    raise tarfile.ReadError("unexpected end of data")
                else:
                    found[name] = info.offset_data, info.size
    except (tarfile.ReadError, EOFError) as error:
        flaw = f"{shown}: {error}; its complete samples are kept"
    if superseded:
        tree.leave_out("members that a later one of the same name replaces", shown, superseded)

    return _samples(path, shown, found, tree), flaw


def _samples(
    path: Path, shown: str, found: dict[str, tuple[int, int] | str], tree: Tree
) -> list[Sample]:
    """The samples of a tar, of the members `found` in it: offset and size, or the name that one is
    a link to."""
    samples: dict[str, Sample] = {}
    for name, target in found.items():
        seen = {name}
        while isinstance(target, str) and target not in seen:  # a link to a link
            seen.add(target)
            target = found.get(target, target)
        place = f"{shown}:{printable(name)}"
        member = Member(path, name, place, *((0, -1) if isinstance(target, str) else target))
        split = KEY.match(name)
        if any(part.startswith(".") or part == "__MACOSX" for part in name.split("/")):
            tree.leave_out("hidden or system files", place)
        elif split is None:
            tree.leave_out("members without an ending", place)
        else:
            sample = samples.setdefault(split[1], {})
            column = split[2].lower()
            while column in sample:  # 7.jpg and 7.JPG
                column += "'"
            sample[column] = member
    return list(samples.values())


def _image_columns(name: str, samples: list[Sample], wanted: str, tree: Tree) -> list[str]:
    """The columns that pictures are in; UserError where a sample has two of them. Counts what is in
    no sample."""
    known = endings()
    counts = Counter(column for sample in samples for column in sample)
    found = sorted(column for column in counts if f".{column.rstrip(chr(39))}" in known)
    if wanted:
        found = [wanted.lower().lstrip(".")]
        if found[0] not in counts:
            raise UserError(
                f"{name} has no column {wanted!r}; its files end in {first_names(sorted(counts))}"
            )
    for sample in samples:
        both = [column for column in found if column in sample]
        if len(both) > 1:
            names = " and ".join(printable(sample[column].name) for column in both)
            raise UserError(
                f"{name}: {sample[both[0]].tar.name} has two pictures of one sample, {names}: "
                f"say which one is meant with --image-column {both[0]} or --image-column {both[1]}"
            )
        for column, member in sample.items():
            is_picture = posixpath.splitext(member.name)[1].lower() in known
            if is_picture and "." in column and not both:
                reason = (
                    "pictures whose name has a dot before its ending (WebDataset ends the key at "
                    "the first dot: "
                )
                tree.leave_out(reason + "--image-column takes what follows it)", member.place)
            elif is_picture and column not in both:
                tree.leave_out(f"pictures of another column ({column})", member.place)
            elif not both:
                tree.leave_out(f"members .{printable(column)} without a picture", member.place)
    return found


def _label_texts(
    name: str, samples: list[Sample], pictures: list[Member], wanted: str
) -> tuple[list[str | None], str, str]:
    """The text of every picture's label (None: none), the column it comes from ("": none), and what
    to say of it."""
    counts = Counter(column for sample in samples for column in sample)

    def texts_of(column: str) -> list[str | None]:
        return [sample[column].text() if column in sample else None for sample in samples]

    if wanted:
        if found := _texts_in(samples, wanted):
            return found, wanted, ""
        raise UserError(
            f"{name} has no labels in {wanted!r}, neither as KEY.{wanted} nor as a field of "
            f"KEY.json: its files end in {first_names(sorted(counts))}"
        )
    for column in ("cls", *LABEL_NAMES):
        if counts[column]:
            return texts_of(column), column, ""
    folders = {posixpath.dirname(picture.name) for picture in pictures}
    names = {picture.tar for picture in pictures if not re.search(r"\d\.tar$", picture.tar.name)}
    hint = ""
    if len(folders) > 1:
        hint = (
            "the folders in the tars are no labels (WebDataset's rule): unpack them to make them "
            "classes"
        )
    elif len(names) > 1:
        hint = (
            "the names of the tars are no labels: unpack each into a folder of its own to make "
            "them classes"
        )
    if counts["json"]:
        fields = _fields(texts_of("json"), LABEL_NAMES)
        if any(text is not None for text in fields):
            return fields, "json", ""
        hint = (
            f"KEY.json has no number and no text in a field {', '.join(LABEL_NAMES)}: "
            "--label-column FIELD takes another as label"
        )
    if counts["txt"]:
        hint = "KEY.txt is taken for captions: --label-column txt takes it as labels"
    return [None] * len(samples), "", hint


def _texts_in(samples: list[Sample], wanted: str) -> list[str | None]:
    """The text of every sample in KEY.wanted, or in a field of KEY.json; nothing where no sample
    has that."""
    column = (
        "json" if wanted == "json" or not any(wanted in sample for sample in samples) else wanted
    )
    texts = [sample[column].text() if column in sample else None for sample in samples]
    found = _fields(texts, (wanted.removeprefix("json."),)) if column == "json" else texts
    return found if any(text is not None for text in found) else []


def _fields(texts: list[str | None], names: Sequence[str]) -> list[str | None]:
    """The first of `names` that a JSON object has, as text; None where there is none, or no number
    and no text."""
    found: list[str | None] = []
    for text in texts:
        try:
            row = json.loads(text) if text is not None else None
        except ValueError:
            row = None
        value = (
            next((row[name] for name in names if name in row), None)
            if isinstance(row, dict)
            else None
        )
        whole = isinstance(value, int | str) or (isinstance(value, float) and value.is_integer())
        found.append((text_of(value) or "").strip() if whole else None)
    return found
