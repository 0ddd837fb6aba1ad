"""Random trees of folders: every file is an image, a bad image, or counted; the labels are those of
ImageFolder."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torchvision.datasets import ImageFolder

from imagegram.cli import UserError
from imagegram.data.dataset import ImageDataset
from imagegram.data.loading import load_images
from imagegram.data.spec import DatasetSpec
from tests.support.datasets import picture, put

LATIN = os.fsdecode(b"caf\xe9")  # no UTF-8
FOLDERS = ("cats", "dogs", "v1.0", ".hidden", "__MACOSX", "Zoo", "ca ts", "日本", "x.png", LATIN)
IMAGES = ("0.png", "1.JPG", ".2.png", "._3.png", "4.webp", "5.heic", "7.b.png", "é.jpg")
NAMES = (*IMAGES, "notes.txt", "README", "6.tar.gz")
KINDS = ("picture", "broken", "empty", "gone", "link", "loop", "folder link", "up")
PICTURE = picture(0)

Entry = tuple[list[str], str, str]  # folders, name, kind
folders = st.lists(st.sampled_from(FOLDERS), max_size=3)
entries = st.tuples(folders, st.sampled_from(NAMES), st.sampled_from(KINDS))
trees = st.lists(entries, min_size=1, max_size=14)


def grow(root: Path, tree: list[Entry]) -> None:
    """Make the entries of a random tree; what clashes with an earlier one is left out."""
    for folders, name, kind in tree:
        place = root.joinpath(*folders)
        if kind == "loop" and not folders:
            continue  # ImageFolder ends in a traceback
        make: dict[str, Callable[[Path], object]] = {
            "picture": lambda file: file.write_bytes(PICTURE),
            "broken": lambda file: file.write_bytes(PICTURE[:40]),
            "empty": lambda file: file.write_bytes(b""),
            "gone": lambda file: file.symlink_to("nowhere.png"),
            "link": lambda file: file.symlink_to(root.parent / "store" / "real.png"),
            "loop": lambda file: file.symlink_to(file.name),
            "folder link": lambda file: file.with_suffix(".d").symlink_to(root.parent / "store"),
            "up": lambda file: file.with_suffix(".u").symlink_to(root),
        }
        try:
            place.mkdir(parents=True, exist_ok=True)
            make[kind](place / name)
        except OSError:
            continue


def count(folder: Path, above: tuple[Path, ...]) -> int:
    """Files below a folder, by another way than the product's: links to folders are entered, but
    not in circles."""
    total = 0
    for entry in folder.iterdir():
        real = Path(os.path.realpath(entry))
        hidden = entry.name.startswith(".") or entry.name == "__MACOSX"
        if not entry.is_dir() or real in above or (hidden and entry.is_symlink()):
            total += 1
        elif hidden:  # not entered by links: its own files, one where it is empty
            total += max(1, sum(len(files) for _, _, files in os.walk(entry)))
        else:
            total += count(entry, (*above, real))
    return total


def text(name: str) -> str:
    """A name as the product prints it."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def read_all(source: ImageDataset) -> tuple[dict[str, int], dict[str, str]]:
    """The labels of the readable images by name, and the reasons of the others."""
    good: dict[str, int] = {}
    bad: dict[str, str] = {}
    for i, pixels, label, reason in load_images(source, source.ordinals, 8, workers=0):
        if pixels is None:
            bad[source.name_of(i)] = reason
        else:
            good[source.name_of(i)] = label
    return good, bad


def compare_with_imagefolder(root: Path, source: ImageDataset, good: dict[str, int]) -> None:
    """Every picture that both read has the class of ImageFolder; its number too, where no folder is
    without images."""
    reference = ImageFolder(str(root), allow_empty=True)
    equal = list(source.class_names) == [text(name) for name in reference.classes]
    for path, number in reference.samples:
        name = text(os.path.relpath(path, root))
        if name in good:
            assert source.class_names[good[name]] == text(reference.classes[number])
            assert not equal or good[name] == number


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(trees)
def test_every_file_is_accounted_for_and_labels_are_those_of_imagefolder(tree: list[Entry]) -> None:
    with tempfile.TemporaryDirectory() as place:
        root = Path(place) / "data"
        root.mkdir()
        put(Path(place) / "store" / "real.png", PICTURE)
        grow(root, tree)
        source, error = attempt(root)
        if source is None:
            assert "\n" not in error
            assert "holds no images" in error or "holds compressed" in error
            return
        good, bad = read_all(source)

        # 1) Every file is an image, a bad image, or counted with a reason.
        assert len(good) + len(bad) == len(source)
        assert all(bad.values())
        left_out = sum(left.count for left in source.left_out)
        assert len(source) + left_out == count(root, (root.resolve(),))

        # 2) ImageFolder reads the same tree, from the folder on that holds the classes; it follows
        #    circles for ever, those in hidden folders as well.
        circles = any(kind == "up" for _, _, kind in tree)
        wrapped = any("holds everything" in note for note in source.notes)
        if source.class_names and not circles and not wrapped:
            compare_with_imagefolder(root, source, good)


def attempt(root: Path) -> tuple[ImageDataset | None, str]:
    """The source, or the error's line. A walk in circles would never end: it fails at so many
    folders."""
    looked = 0

    def scandir(path: Any) -> Any:
        nonlocal looked
        looked += 1
        assert looked < 500, "a walk in circles"
        return real(path)

    real = os.scandir
    try:
        with mock.patch.object(os, "scandir", scandir):
            return DatasetSpec(str(root)).open(), ""
    except UserError as error:
        return None, str(error)


def test_a_circle_of_links_is_walked_once(tmp_path: Path) -> None:
    for name in ("cats", "dogs"):
        put(tmp_path / name / "0.png", PICTURE)
        (tmp_path / name / "up").symlink_to(tmp_path)
    (tmp_path / "self").symlink_to("self")
    source, error = attempt(tmp_path)
    assert source, error
    assert len(source) == 2
    assert {left.reason: left.count for left in source.left_out} == {
        "links to a folder above them": 2,
        "links whose target is gone": 1,
    }
