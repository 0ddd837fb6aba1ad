"""WebDataset tars, with the rules of `webdataset` (tariterators.py) and of `datasets`' loader of the same name.

The files of a sample share a key: the path up to the first dot of the base name. What follows the dot is the column:
`cats/007.jpg`, `cats/007.cls` and `cats/007.json` are the columns jpg, cls and json of the sample `cats/007`. One
column is the picture; its label is in cls, in a field of json, or a class name in txt. Of members with the same name
the last one counts, as for tar itself.
"""

import contextlib
import json
import posixpath
import re
import tarfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from imagegram.cli import UserError
from imagegram.data.dataset import (
    LABEL_NAMES,
    DatasetOptions,
    ImageDataset,
    contents_of,
    copies,
    counted,
    digest,
    first_names,
    open_picture,
    printable,
)
from imagegram.data.labels import Classes, files_of_split, text_of
from imagegram.data.survey import Tree, endings

KEY = re.compile(r"^((?:.*/|)[^./][^./]*)[.]([^/]*)$")  # webdataset's base_plus_ext: key and column


@dataclass(frozen=True)
class Member:
    """Where the bytes of a member lie in its tar; size -1: nowhere."""

    name: str
    offset: int
    size: int


@dataclass
class Tar:
    """What a tar holds: members by key and column, in the order of their first appearance."""

    path: Path
    shown: str
    samples: dict[str, dict[str, Member]] = field(default_factory=dict)
    flaw: str = ""


def read_tars(name: str, tree: Tree, wanted: DatasetOptions) -> ImageDataset:
    """All samples with a picture of the tars below a folder (or of one tar)."""
    split, files, note = files_of_split(name, tree.files["tars"], wanted.split)
    for file in tree.files["tars"]:
        if file not in files:
            tree.leave_out("tars of other splits", file)
    known = endings()
    tars = [_scan(tree.root / file, file, tree) for file in files]
    flaws = [tar.flaw for tar in tars if tar.flaw]

    # 1) One column holds the picture.
    column_of = _image_columns(name, tars, wanted.image_column, known, tree)
    pictures = [
        (tar, key, member)
        for tar in tars
        for key, sample in tar.samples.items()
        if (member := next((sample[column] for column in column_of if column in sample), None))
    ]
    if not pictures:
        left = "; ".join(counted(tree.left_out()) + flaws)
        raise UserError(f"{name} holds no images{': ' * bool(left)}{left}")

    # 2) Labels, from the files that belong to it.
    samples = [tar.samples[key] for tar, key, _ in pictures]
    texts, label_column, label_hint = _label_texts(name, pictures, samples, wanted.label_column)
    places = [f"{tar.shown}:{printable(member.name)}" for tar, _, member in pictures]
    classes = Classes.of(texts)

    # 3) Names, labels and contents make the fingerprint.
    contents = contents_of([(tar.path, member.offset, max(member.size, 0)) for tar, _, member in pictures])
    parts = (
        f"{place} {label}".encode() + b"\0" + content
        for place, label, content in zip(places, classes.labels, contents, strict=True)
    )
    fingerprint = digest([*parts, *classes.identity()])

    def read(i: int) -> tuple[Image.Image, int]:
        tar, _, member = pictures[i]
        if member.size < 0:
            raise FileNotFoundError("a link to a member that the tar does not hold")
        return open_picture(contents.read(i, tar.path, member.offset, member.size)), int(classes.labels[i])

    used = f"images from {', '.join(column_of)}" + (f", labels from {label_column}" if label_column else ", no labels")
    notes = [note, used, label_hint, classes.note, copies(places, contents), contents.note]
    return ImageDataset(
        name=name,
        split=split,
        fingerprint=fingerprint,
        size=len(pictures),
        read=read,
        class_names=classes.names,
        image_column=wanted.image_column,
        label_column=label_column,
        kind=f"WebDataset, {len(tars)} tar{'s' * (len(tars) > 1)}",
        notes=tuple(filter(None, notes)),
        left_out=tree.left_out(),
        name_of=lambda i: places[i],
        flaw="; ".join(flaws),
    )


def _scan(path: Path, shown: str, tree: Tree) -> Tar:
    """List the members of a tar; a tar that ends early keeps what is complete."""
    found = Tar(path, printable(shown))
    members: dict[str, Member] = {}
    links: dict[str, str] = {}
    superseded = 0
    length = path.stat().st_size
    with path.open("rb") as f:
        if f.read(2) in (b"\x1f\x8b", b"BZ", b"\xfd7", b"(\xb5"):
            raise UserError(f"{path} is compressed: decompress it first (gunzip, bunzip2, unxz, unzstd)")
    try:
        with tarfile.open(path, "r:") as tar:
            for info in tar:
                member = posixpath.normpath(info.name)
                if info.isdir():
                    continue
                if member in members or member in links:
                    superseded += 1
                    members.pop(member, None)
                    links.pop(member, None)
                if info.islnk():
                    links[member] = posixpath.normpath(info.linkname)
                elif info.issym():
                    links[member] = posixpath.normpath(posixpath.join(posixpath.dirname(member), info.linkname))
                elif not info.isreg() or info.issparse():
                    tree.leave_out("members of tars that are no plain files", f"{found.shown}:{printable(member)}")
                elif info.offset_data + info.size > length:
                    raise tarfile.ReadError("unexpected end of data")
                else:
                    members[member] = Member(member, info.offset_data, info.size)
    except (tarfile.ReadError, EOFError) as error:
        found.flaw = f"{found.shown}: {error}; its complete samples are kept"
    if superseded:
        tree.leave_out("members that a later one of the same name replaces", found.shown, superseded)
    for member, target in links.items():
        seen = {member}
        while target in links and target not in seen:  # a link to a link
            seen.add(target)
            target = links[target]
        at = members.get(target, Member(target, 0, -1))
        members[member] = Member(member, at.offset, at.size)
    for listed in members.values():
        _sort_in(found, listed, tree)
    return found


def _sort_in(found: Tar, member: Member, tree: Tree) -> None:
    """Give a member to the sample of its key, or count it."""
    place = f"{found.shown}:{printable(member.name)}"
    split = KEY.match(member.name)
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in member.name.split("/"))
    if hidden:
        tree.leave_out("hidden or system files", place)
    elif split is None:
        tree.leave_out("members without an ending", place)
    else:
        key = split[1]
        column = split[2].lower()
        sample = found.samples.setdefault(key, {})
        while column in sample:  # 7.jpg and 7.JPG
            column += "'"
        sample[column] = member


def _image_columns(name: str, tars: list[Tar], wanted: str, known: set[str], tree: Tree) -> list[str]:
    """The columns that pictures are in; UserError where a sample has two of them."""
    counts = Counter(column for tar in tars for sample in tar.samples.values() for column in sample)
    found = sorted(column for column in counts if f".{column.rstrip(chr(39))}" in known)
    if wanted:
        if wanted.lower().lstrip(".") not in counts:
            raise UserError(f"{name} has no column {wanted!r}; its files end in {first_names(sorted(counts))}")
        found = [wanted.lower().lstrip(".")]
    for tar in tars:
        for sample in tar.samples.values():
            both = [column for column in found if column in sample]
            if len(both) > 1:
                names = " and ".join(printable(sample[column].name) for column in both)
                raise UserError(
                    f"{name}: {tar.shown} has two pictures of one sample, {names}: "
                    f"say which one is meant with --image-column {both[0]} or --image-column {both[1]}"
                )
            if not both:
                _count_rest(sample, tar, known, tree)
            else:
                for column, member in sample.items():
                    if column not in both and posixpath.splitext(member.name)[1].lower() in known:
                        place = f"{tar.shown}:{printable(member.name)}"
                        tree.leave_out(f"pictures of another column ({column})", place)
    return found


def _count_rest(sample: dict[str, Member], tar: Tar, known: set[str], tree: Tree) -> None:
    """Count the files of a sample that has no picture."""
    for column, member in sample.items():
        place = f"{tar.shown}:{printable(member.name)}"
        if f".{column.rpartition('.')[2]}" in known and "." in column:
            reason = "pictures whose name has a dot before its ending (WebDataset ends the key at the first dot: "
            tree.leave_out(reason + "--image-column takes what follows it)", place)
        elif f".{column}" in known:
            tree.leave_out(f"pictures of another column ({column})", place)
        else:
            tree.leave_out(f"members .{printable(column)} without a picture", place)


def _label_texts(
    name: str,
    pictures: Sequence[tuple[Tar, str, Member]],
    samples: list[dict[str, Member]],
    wanted: str,
) -> tuple[list[str | None], str, str]:
    """The text of every picture's label (None: none), the column it comes from ("": none), and what to say of it."""
    counts = Counter(column for sample in samples for column in sample)
    if wanted:
        if wanted in counts and wanted != "json":
            return _texts(pictures, samples, wanted), wanted, ""
        fields = _fields(_texts(pictures, samples, "json"), (wanted.removeprefix("json."),))
        if any(text is not None for text in fields):
            return fields, wanted, ""
        raise UserError(
            f"{name} has no labels in {wanted!r}, neither as KEY.{wanted} nor as a field of KEY.json: "
            f"its files end in {first_names(sorted(counts))}"
        )
    for column in ("cls", *LABEL_NAMES):
        if counts[column]:
            return _texts(pictures, samples, column), column, ""
    folders = {posixpath.dirname(member.name) for _, _, member in pictures}
    names = {tar.shown for tar, _, _ in pictures if not re.search(r"\d\.tar$", tar.shown)}
    hint = ""
    if len(folders) > 1:
        hint = "the folders in the tars are no labels (WebDataset's rule): unpack them to make them classes"
    elif len(names) > 1:
        hint = "the names of the tars are no labels: unpack each into a folder of its own to make them classes"
    if counts["json"]:
        fields = _fields(_texts(pictures, samples, "json"), LABEL_NAMES)
        if any(text is not None for text in fields):
            return fields, "json", ""
        hint = (
            f"KEY.json has no number and no text in a field {', '.join(LABEL_NAMES)}: --label-column FIELD takes "
            "another as label"
        )
    if counts["txt"]:
        texts = _texts(pictures, samples, "txt")
        # Captions differ from picture to picture, class names come again.
        different = len(set(texts) - {None})
        if 2 * different <= sum(text is not None for text in texts):
            return texts, "txt", ""
        hint = f"KEY.txt holds {different} different texts, taken for captions: --label-column txt takes them as labels"
    return [None] * len(samples), "", hint


def _texts(
    pictures: Sequence[tuple[Tar, str, Member]], samples: list[dict[str, Member]], column: str
) -> list[str | None]:
    """What stands in a column of every sample, as text."""
    texts: list[str | None] = []
    with contextlib.ExitStack() as stack:
        opened = None
        for (tar, _, _), sample in zip(pictures, samples, strict=True):
            member = sample.get(column)
            if member is None or member.size < 0:
                texts.append(None)
                continue
            if opened != tar.path:  # the samples of a tar follow each other
                stack.close()
                file = stack.enter_context(tar.path.open("rb"))
                opened = tar.path
            file.seek(member.offset)
            texts.append(file.read(member.size).decode("utf-8", "surrogateescape").strip())
    return texts


def _fields(texts: list[str | None], names: Sequence[str]) -> list[str | None]:
    """The first of `names` that a JSON object has, as text; None where there is none, or no number and no text."""
    found: list[str | None] = []
    for text in texts:
        try:
            row = json.loads(text) if text is not None else None
        except ValueError:
            row = None
        value = next((row[name] for name in names if name in row), None) if isinstance(row, dict) else None
        whole = isinstance(value, int | str) or (isinstance(value, float) and value.is_integer())
        found.append((text_of(value) or "").strip() if whole else None)
    return found
