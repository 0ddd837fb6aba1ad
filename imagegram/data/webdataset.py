"""WebDataset tars, with the rules of `webdataset` (tariterators.py) and of `datasets`' loader.

The files of a sample share a key: the path up to the first dot of the base name. What follows the
dot is the column: `cats/007.jpg`, `cats/007.cls` and `cats/007.json` are the columns jpg, cls and
json of the sample `cats/007`. One column is the picture; its label is in cls or in a field of json.
Of members with the same name the last one counts, as for tar itself.
"""

import contextlib
import json
import posixpath
import re
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from imagegram.cli import UserError
from imagegram.data.columns import LABEL_NAMES
from imagegram.data.contents import Part, contents_of, digest, open_picture
from imagegram.data.dataset import DatasetOptions, ImageDataset, counted
from imagegram.data.labels import Classes, labelled, parts_of_names, text_of
from imagegram.data.survey import Tree, endings
from imagegram.data.wording import first_names, printable, taken

KEY = re.compile(r"^((?:.*/|)[^./][^./]*)[.]([^/]*)$")  # webdataset's base_plus_ext: key and column
DOTTED = (
    "pictures whose name has a dot before its ending (WebDataset ends the key at the first dot: "
    "--image-column takes what follows it)"
)


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
Places = dict[str, tuple[int, int] | str]  # by name: offset and size, or what it is a link to


def read_tars(name: str, tree: Tree, wanted: DatasetOptions) -> ImageDataset:
    """All samples with a picture of the tars below a folder (or of one tar)."""
    split, files, note = tree.of_split(name, "tars", wanted)
    scanned = [_scan(tree.root / file, printable(file), tree) for file in files]
    warnings = [f"warning: {flaw}" for _, flaw in scanned if flaw]

    # 1) One column holds the picture.
    samples = [sample for found, _ in scanned for sample in found]
    columns = _image_columns(name, samples, wanted.image_column, tree)
    samples = [sample for sample in samples if not sample.keys().isdisjoint(columns)]
    pictures = [next(sample[one] for one in columns if one in sample) for sample in samples]
    if not pictures:
        left = "; ".join(counted(tree.left_out()) + warnings)
        raise UserError(f"{name} holds no images{': ' * bool(left)}{left}")

    # 2) Labels, from the files that belong to it.
    texts, label_column, label_hint = _label_texts(name, samples, pictures, wanted.label_column)
    classes = Classes.of(texts)
    groups = None
    if wanted.group:  # a file that belongs to the picture says it, or its name
        names = [picture.name for picture in pictures]
        groups = _texts_in(samples, wanted.group)
        groups = groups or parts_of_names(name, wanted.group, names, _columns(samples))

    # 3) Names, labels and contents make the fingerprint.
    contents = contents_of([Part(one.tar, one.offset, max(one.size, 0)) for one in pictures])
    places = zip(pictures, classes.labels, strict=True)
    parts = contents.named(f"{picture.place} {label}".encode() for picture, label in places)

    def read(i: int) -> Image.Image:
        if pictures[i].size < 0:
            raise FileNotFoundError("a link to a member that the tar does not hold")
        return open_picture(contents.read(i))

    notes = [note, taken(", ".join(columns), label_column), label_hint]
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


def _columns(samples: list[Sample]) -> list[str]:
    """The columns that samples have, sorted."""
    return sorted({column for sample in samples for column in sample})


def _scan(path: Path, shown: str, tree: Tree) -> tuple[list[Sample], str]:
    """The samples of a tar, and its flaw: one that ends early keeps what is complete."""
    with path.open("rb") as f:
        if f.read(2) in (b"\x1f\x8b", b"BZ", b"\xfd7", b"(\xb5"):
            remedy = "decompress it first (gunzip, bunzip2, unxz, unzstd)"
            raise UserError(f"{path} is compressed: {remedy}")
    found: Places = {}
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
                if info.islnk() or info.issym():
                    folder = posixpath.dirname(name) if info.issym() else ""
                    found[name] = posixpath.normpath(posixpath.join(folder, info.linkname))
                elif not info.isreg() or info.issparse():
                    place = f"{shown}:{printable(name)}"
                    tree.leave_out("members of tars that are no plain files", place)
                elif info.offset_data + info.size > length:
                    raise tarfile.ReadError("unexpected end of data")
                else:
                    found[name] = info.offset_data, info.size
    except (tarfile.ReadError, EOFError) as error:
        flaw = f"{shown}: {error}; its complete samples are kept"
    if superseded:
        tree.leave_out("members that a later one of the same name replaces", shown, superseded)
    return _samples(path, shown, found, tree), flaw


def _samples(path: Path, shown: str, found: Places, tree: Tree) -> list[Sample]:
    """The samples of a tar, of the members found in it."""
    samples: dict[str, Sample] = {}
    for name, target in found.items():
        seen = {name}
        while isinstance(target, str) and target not in seen:  # a link to a link
            seen.add(target)
            target = found.get(target, target)
        place = f"{shown}:{printable(name)}"
        member = Member(path, name, place, *((0, -1) if isinstance(target, str) else target))
        parts = KEY.match(name)
        if any(part.startswith(".") or part == "__MACOSX" for part in name.split("/")):
            tree.leave_out("hidden or system files", place)
        elif parts is None:
            tree.leave_out("members without an ending", place)
        else:
            sample, column = samples.setdefault(parts[1], {}), parts[2].lower()
            while column in sample:  # 7.jpg and 7.JPG
                column += "'"
            sample[column] = member
    return list(samples.values())


def _image_columns(name: str, samples: list[Sample], wanted: str, tree: Tree) -> list[str]:
    """The columns of pictures; counts what is in no sample. UserError where a sample has two."""
    known = endings()
    columns = _columns(samples)
    found = [column for column in columns if f".{column.rstrip(chr(39))}" in known]
    if wanted:
        found = [wanted.lower().lstrip(".")]
        if found[0] not in columns:
            has = f"its files end in {first_names(columns)}"
            raise UserError(f"{name} has no column {wanted!r}; {has}")
    for sample in samples:
        both = [column for column in found if column in sample]
        if len(both) > 1:
            names = " and ".join(printable(sample[column].name) for column in both)
            two = f"{sample[both[0]].tar.name} has two pictures of one sample, {names}"
            options = f"--image-column {both[0]} or --image-column {both[1]}"
            raise UserError(f"{name}: {two}: say which one is meant with {options}")
        for column, member in sample.items():
            is_picture = posixpath.splitext(member.name)[1].lower() in known
            if is_picture and "." in column and not both:
                tree.leave_out(DOTTED, member.place)
            elif is_picture and column not in both:
                tree.leave_out(f"pictures of another column ({column})", member.place)
            elif not both:
                tree.leave_out(f"members .{printable(column)} without a picture", member.place)
    return found


def _label_texts(
    name: str, samples: list[Sample], pictures: list[Member], wanted: str
) -> tuple[list[str | None], str, str]:
    """The text of every picture's label (None: none), its column ("": none), and what to say."""
    columns = _columns(samples)
    if wanted:
        if found := _texts_in(samples, wanted):
            return found, wanted, ""
        places = f"neither as KEY.{wanted} nor as a field of KEY.json"
        has = f"its files end in {first_names(columns)}"
        raise UserError(f"{name} has no labels in {wanted!r}, {places}: {has}")
    for column in ("cls", *LABEL_NAMES):
        if column in columns:
            return _texts_of(samples, column), column, ""
    folders = {posixpath.dirname(picture.name) for picture in pictures}
    names = {picture.tar for picture in pictures if not re.search(r"\d\.tar$", picture.tar.name)}
    hint = ""
    if len(folders) > 1:
        hint = "the folders in the tars are no labels (WebDataset's rule): unpack them"
    elif len(names) > 1:
        hint = "the names of the tars are no labels: unpack each into a folder of its own"
    hint += " to make them classes" * bool(hint)
    if "json" in columns:
        if fields := _fields(samples, LABEL_NAMES):
            return fields, "json", ""
        hint = f"KEY.json has no number and no text in a field {', '.join(LABEL_NAMES)}"
        hint += ": --label-column FIELD takes another as label"
    if "txt" in columns:
        hint = "KEY.txt is taken for captions: --label-column txt takes it as labels"
    return [None] * len(samples), "", hint


def _texts_of(samples: list[Sample], column: str) -> list[str | None]:
    """The text of every sample in a column."""
    return [sample[column].text() if column in sample else None for sample in samples]


def _texts_in(samples: list[Sample], wanted: str) -> list[str | None]:
    """The text of every sample in KEY.wanted, or in a field of KEY.json; [] where none has that."""
    if wanted == "json" or not any(wanted in sample for sample in samples):
        return _fields(samples, (wanted.removeprefix("json."),))
    texts = _texts_of(samples, wanted)
    return texts if any(text is not None for text in texts) else []


def _fields(samples: list[Sample], names: Sequence[str]) -> list[str | None]:
    """The first of `names`, number or text, in KEY.json of every sample; [] where none has that."""
    found: list[str | None] = []
    for text in _texts_of(samples, "json"):
        row = None
        with contextlib.suppress(ValueError):
            row = json.loads(text or "null")
        fields = row if isinstance(row, dict) else {}
        value = next((fields[name] for name in names if name in fields), None)
        whole = isinstance(value, int | str) or (isinstance(value, float) and value.is_integer())
        found.append((text_of(value) or "").strip() if whole else None)
    return found if any(text is not None for text in found) else []
