"""Folders as people have them: nothing lost, nothing mislabelled, nothing passed over in
silence."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from datasets.data_files import SPLIT_KEYWORDS

from imagegram.artifact import Artifact
from imagegram.cli import UserError
from imagegram.data.contents import ChangedError, Part, contents_of, open_picture
from tests.support.datasets import description, labels, open_dataset, picture, put, write_tar

# Folders.


def test_split_folders_are_splits_and_a_wrapping_is_none_of_the_classes(tmp_path: Path) -> None:
    for i in range(12):
        put(
            tmp_path / "w" / ("train", "test")[i % 3 == 0] / ("cats", "dogs")[i % 2] / f"{i}.png",
            picture(i),
        )
    for name in (tmp_path / "w", tmp_path):
        train = open_dataset(str(name))
        assert (len(train), train.split, train.class_names) == (8, "train", ("cats", "dogs"))
        assert "4 images of the split test" in description(train)
        assert len(open_dataset(str(name), split="test")) == 4
        with pytest.raises(UserError, match="no split 'val'; it has test, train"):
            open_dataset(str(name), split="val")
    with pytest.raises(UserError, match="--split train does not apply"):
        open_dataset(str(tmp_path / "w" / "train"), split="train")
    put(tmp_path / "w" / "docs" / "logo.png", picture(0))
    with pytest.raises(
        UserError, match=r"named like splits \(test, train\) beside others \(docs\)"
    ):
        open_dataset(str(tmp_path / "w"))


def test_splits_have_the_names_that_datasets_knows(tmp_path: Path) -> None:
    for split, words in SPLIT_KEYWORDS.items():
        for word in words:
            for i, name in enumerate({"train", "test", word}):
                put(tmp_path / word / name / "a" / "0.png", picture(i))
            assert len(open_dataset(str(tmp_path / word), split=str(split))) == 1


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    for i, name in enumerate(("bus", "car", "train")):
        put(tmp_path / name / "0.png", picture(i))
    source = open_dataset(str(tmp_path))
    assert (source.class_names, labels(source)) == (("bus", "car", "train"), [0, 1, 2])


@pytest.mark.parametrize("option", ["split", "image_column", "label_column"])
@pytest.mark.parametrize("name", ["digits", "emoji", "shapes", "folder"])
def test_options_that_do_not_apply_are_refused(tmp_path: Path, name: str, option: str) -> None:
    put(tmp_path / "folder" / "a" / "0.png", picture(0))
    place = str(tmp_path / name) if name == "folder" else name
    with pytest.raises(UserError, match=f"--{option.replace('_', '-')} x does not apply"):
        open_dataset(place, **{option: "x"})


def test_more_than_one_kind_is_refused_with_what_was_found(tmp_path: Path) -> None:
    put(tmp_path / "cats" / "0.png", picture(0))
    write_tar(tmp_path / "old.tar", ("0.png", picture(1)))
    with pytest.raises(UserError, match=r"1 pictures \(cats/0.png\); 1 .tar files \(old.tar\)"):
        open_dataset(str(tmp_path))
    (tmp_path / "old.tar").unlink()
    np.savez(tmp_path / "statistics.npz", mean=np.zeros(3))  # no pictures in it
    put(tmp_path / "photos.tar.gz")  # what the folder was unpacked from
    source = open_dataset(str(tmp_path))
    assert len(source) == 1
    assert "without pictures, e.g. statistics.npz" in description(source)
    assert "photos.tar.gz" in description(source)


def test_hidden_system_and_own_folders_are_left_out_and_counted(tmp_path: Path) -> None:
    put(tmp_path / "cats" / "0.png", picture(0))
    for junk in (
        ".ipynb_checkpoints/0.png",
        "__MACOSX/cats/._0.png",
        "cats/@eaDir/0.png/T.jpg",
        "cats/._0.png",
    ):
        put(tmp_path / junk, picture(1))
    Artifact(tmp_path / "results", "run").claim()
    put(tmp_path / "results" / "generated" / "image_0000.png", picture(2))
    Artifact(tmp_path / "made", "images").claim()
    put(tmp_path / "made" / "image_0000.png", picture(2))
    source = open_dataset(str(tmp_path))
    assert (len(source), source.class_names) == (1, ("cats",))
    assert {left.reason: left.count for left in source.left_out} == {
        "hidden or system files": 4,
        "files of Imagegram's own results": 4,
    }
    (tmp_path / "made" / ".imagegram").unlink()
    put(tmp_path / "made" / "report.json", b'{"accuracy": 1}')  # somebody else's
    assert open_dataset(str(tmp_path)).class_names == ("cats", "made")


# What root may do as well has to be given up first.
AS_USER = (
    ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-all"]
    if os.geteuid() == 0
    else []
)
OPEN = "import sys; from imagegram.data.spec import DatasetSpec; DatasetSpec(sys.argv[1]).open()"


@pytest.mark.skipif(
    bool(AS_USER) and not shutil.which("setpriv"), reason="root without setpriv may read everything"
)
@pytest.mark.parametrize(
    ("forbidden", "mode", "named"),
    [("d", 0, "d"), ("d/cats", 0o444, "d/cats"), ("far", 0, "d/owls")],
)
def test_forbidden_folders_stop_everything(
    tmp_path: Path, forbidden: str, mode: int, named: str
) -> None:
    put(tmp_path / "d" / "cats" / "0.png", picture(0))
    put(tmp_path / "far" / "owls" / "0.png", picture(1))
    (tmp_path / "d" / "owls").symlink_to("../far/owls")
    (tmp_path / forbidden).chmod(mode)
    command = [*AS_USER, sys.executable, "-c", OPEN, str(tmp_path / "d")]
    result = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True)
    (tmp_path / forbidden).chmod(0o755)
    assert (
        f"UserError: cannot read the folder {tmp_path / named} (Permission denied)" in result.stderr
    )


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    put(tmp_path / "0.png", picture(0))
    os.mkfifo(tmp_path / "1.png")
    source = open_dataset(str(tmp_path))
    assert len(source) == 1
    assert "pipes, sockets or devices" in description(source)


@pytest.mark.parametrize("form", ["BMP", "TIFF", "PPM"])
def test_changed_pictures_and_labels_of_the_same_size_are_other_data(
    tmp_path: Path, form: str
) -> None:
    file = put(tmp_path / "d" / "a" / f"0.{form.lower()}", picture(0, form))
    before = open_dataset(str(tmp_path / "d")).fingerprint
    os.utime(file, (1, 1))  # a copy has another date
    assert open_dataset(str(tmp_path / "d")).fingerprint == before
    changed = bytearray(file.read_bytes())
    changed[len(changed) // 2] ^= 1
    file.write_bytes(changed)
    assert open_dataset(str(tmp_path / "d")).fingerprint != before
    prints = {
        open_dataset(
            str(write_tar(tmp_path / "x.tar", ("0.bmp", content), ("0.cls", label)))
        ).fingerprint
        for content, label in (
            (picture(0, form), b"0"),
            (bytes(changed), b"0"),
            (picture(0, form), b"1"),
        )
    }
    assert len(prints) == 3


@pytest.mark.parametrize("whole", [10**9, 10])
def test_what_changes_after_the_data_set_was_opened_is_not_read_as_what_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: int
) -> None:
    monkeypatch.setattr("imagegram.data.contents.WHOLE", whole)
    files = [put(tmp_path / "d" / "a" / f"{i}.bmp", picture(i, "BMP")) for i in range(4)]
    folder = open_dataset(str(tmp_path / "d"))
    tar = open_dataset(
        str(
            write_tar(
                tmp_path / "x.tar", ("0.bmp", picture(0, "BMP")), ("1.bmp", picture(1, "BMP"))
            )
        )
    )
    files[1].unlink()
    put(files[2], picture(9, "BMP"))  # of the same size
    files[3].unlink()
    files[3].mkdir()
    write_tar(tmp_path / "x.tar", ("1.bmp", picture(1, "BMP")), ("0.bmp", picture(0, "BMP")))
    assert np.array_equal(
        np.asarray(folder.read(0)[0]), np.asarray(open_picture(picture(0, "BMP")))
    )
    for source, i in ((folder, 1), (folder, 2), (folder, 3), (tar, 0), (tar, 1)):
        with pytest.raises(ChangedError):
            source.read(i)


# Tars.


@pytest.mark.parametrize("place", [0, 10_000, 19_999])
def test_of_a_large_data_set_the_ends_and_the_middle_of_every_file_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: int
) -> None:
    monkeypatch.setattr("imagegram.data.contents.WHOLE", 10)
    content = bytearray(20_000)
    file = put(tmp_path / "large", bytes(content))
    compared = contents_of([Part(file)])
    (before,) = compared.hashes
    assert "4 kB at the beginning, in the middle and at the end" in compared.note
    content[place] = 1
    put(file, bytes(content))
    (after,) = contents_of([Part(file)]).hashes
    assert before != after
