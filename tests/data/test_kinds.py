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
from imagegram.data.contents import ChangedError, Part, contents_of
from tests.support.datasets import image, picture, put, put_pictures, write_tar
from tests.support.opened import classes, described, open_dataset, refused, same_pictures


def test_split_folders_are_splits_and_a_wrapping_is_none_of_the_classes(tmp_path: Path) -> None:
    whole = tmp_path / "w"
    splits, kinds = ("train", "test"), ("cats", "dogs")
    put_pictures(whole, *(f"{splits[i % 3 == 0]}/{kinds[i % 2]}/{i}.png" for i in range(12)))
    for name in (whole, tmp_path):
        train = open_dataset(name)
        assert (len(train), train.split, train.class_names) == (8, "train", kinds)
        assert "4 images of the split test" in described(name)
        assert len(open_dataset(name, split="test")) == 4
        refused(name, "no split 'val'; it has test, train", split="val")
    refused(whole / "train", "--split train does not apply", split="train")
    put_pictures(whole, "docs/logo.png")
    refused(whole, r"named like splits \(test, train\) beside others \(docs\)")


def test_splits_have_the_names_that_datasets_knows(tmp_path: Path) -> None:
    for split, words in SPLIT_KEYWORDS.items():
        for word in words:
            names = {"train", "test", word}
            folder = put_pictures(tmp_path / word, *(f"{name}/a/0.png" for name in names))
            assert len(open_dataset(folder, split=str(split))) == 1


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    put_pictures(tmp_path, "bus/0.png", "car/0.png", "train/0.png")
    assert classes(tmp_path) == ["bus", "car", "train"]


@pytest.mark.parametrize("option", ["split", "image_column", "label_column"])
@pytest.mark.parametrize("name", ["digits", "emoji", "shapes", "folder"])
def test_options_that_do_not_apply_are_refused(tmp_path: Path, name: str, option: str) -> None:
    place = put_pictures(tmp_path, "a/0.png") if name == "folder" else name
    refused(place, f"--{option.replace('_', '-')} x does not apply", **{option: "x"})


def test_more_than_one_kind_is_refused_with_what_was_found(tmp_path: Path) -> None:
    put_pictures(tmp_path, "cats/0.png")
    write_tar(tmp_path / "old.tar", ("0.png", picture(1)))
    refused(tmp_path, r"1 pictures \(cats/0.png\); 1 .tar files \(old.tar\)")
    (tmp_path / "old.tar").unlink()
    np.savez(tmp_path / "statistics.npz", mean=np.zeros(3))  # no pictures in it
    put(tmp_path / "photos.tar.gz")  # what the folder was unpacked from
    assert len(open_dataset(tmp_path)) == 1
    assert "without pictures, e.g. statistics.npz" in described(tmp_path)
    assert "photos.tar.gz" in described(tmp_path)


def test_hidden_system_and_own_folders_are_left_out_and_counted(tmp_path: Path) -> None:
    junk = (".ipynb_checkpoints/0.png", "__MACOSX/cats/._0.png", "cats/@eaDir/0.png/T.jpg")
    put_pictures(tmp_path, "cats/0.png", "cats/._0.png", *junk)
    for name, kind in (("results", "run"), ("made", "images")):
        Artifact(tmp_path / name, kind).claim()
    put_pictures(tmp_path, "results/generated/image_0000.png", "made/image_0000.png")
    source = open_dataset(tmp_path)
    assert (len(source), source.class_names) == (1, ("cats",))
    assert {left.reason: left.count for left in source.left_out} == {
        "hidden or system files": 4,
        "files of Imagegram's own results": 4,
    }
    (tmp_path / "made" / ".imagegram").unlink()
    put(tmp_path / "made" / "report.json", b'{"accuracy": 1}')  # somebody else's
    assert open_dataset(tmp_path).class_names == ("cats", "made")


# What root may do as well has to be given up first.
SETPRIV = "setpriv --bounding-set=-dac_override,-dac_read_search --inh-caps=-all"
AS_USER = [] if os.geteuid() else SETPRIV.split()
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
    put_pictures(tmp_path, "d/cats/0.png", "far/owls/0.png")
    (tmp_path / "d" / "owls").symlink_to("../far/owls")
    (tmp_path / forbidden).chmod(mode)
    command = [*AS_USER, sys.executable, "-c", OPEN, str(tmp_path / "d")]
    result = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True)
    (tmp_path / forbidden).chmod(0o755)
    fault = f"cannot read the folder {tmp_path / named} (Permission denied)"
    assert f"UserError: {fault}" in result.stderr


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    put_pictures(tmp_path, "0.png")
    os.mkfifo(tmp_path / "1.png")
    assert len(open_dataset(tmp_path)) == 1
    assert "pipes, sockets or devices" in described(tmp_path)


@pytest.mark.parametrize("form", ["BMP", "TIFF", "PPM"])
def test_changed_pictures_and_labels_of_the_same_size_are_other_data(
    tmp_path: Path, form: str
) -> None:
    content = picture(0, form)
    file = put(tmp_path / "d" / "a" / f"0.{form.lower()}", content)
    before = open_dataset(tmp_path / "d").fingerprint
    os.utime(file, (1, 1))  # a copy has another date
    assert open_dataset(tmp_path / "d").fingerprint == before
    changed = bytearray(content)
    changed[len(changed) // 2] ^= 1
    file.write_bytes(changed)
    assert open_dataset(tmp_path / "d").fingerprint != before

    def of_tar(content: bytes, label: bytes) -> str:
        tar = write_tar(tmp_path / "x.tar", ("0.bmp", content), ("0.cls", label))
        return open_dataset(tar).fingerprint

    assert len({of_tar(content, b"0"), of_tar(bytes(changed), b"0"), of_tar(content, b"1")}) == 3


@pytest.mark.parametrize("whole", [10**9, 10])
def test_what_changes_after_the_data_set_was_opened_is_not_read_as_what_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: int
) -> None:
    monkeypatch.setattr("imagegram.data.contents.WHOLE", whole)
    pictures = [picture(i, "BMP") for i in range(4)]
    files = [put(tmp_path / "d" / "a" / f"{i}.bmp", one) for i, one in enumerate(pictures)]
    folder = open_dataset(tmp_path / "d")
    file = write_tar(tmp_path / "x.tar", ("0.bmp", pictures[0]), ("1.bmp", pictures[1]))
    tar = open_dataset(file)
    files[1].unlink()
    put(files[2], picture(9, "BMP"))  # of the same size
    files[3].unlink()
    files[3].mkdir()
    write_tar(file, ("1.bmp", pictures[1]), ("0.bmp", pictures[0]))
    assert same_pictures(folder, [image(0)])
    for source, i in ((folder, 1), (folder, 2), (folder, 3), (tar, 0), (tar, 1)):
        with pytest.raises(ChangedError):
            source.read(i)


@pytest.mark.parametrize("place", [0, 10_000, 19_999])
def test_of_a_large_data_set_the_ends_and_the_middle_of_every_file_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: int
) -> None:
    monkeypatch.setattr("imagegram.data.contents.WHOLE", 10)
    content = bytearray(20_000)
    part = Part(put(tmp_path / "large", bytes(content)))
    before = contents_of([part])
    assert "4 kB at the beginning, in the middle and at the end" in before.note
    content[place] = 1
    put(part.path, bytes(content))
    assert before.hashes != contents_of([part]).hashes
