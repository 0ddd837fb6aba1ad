"""What lies beside pictures: tables of labels, masks, copies, folders without pictures, archives,
other arrays."""

import json
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from PIL import Image

from imagegram.data.dataset import REASONS
from imagegram.data.preprocess import to_rgb
from tests.support.datasets import picture, put, put_pictures, write_tar
from tests.support.opened import classes, described, labels, open_dataset, refused, same_pictures
from tests.support.tables import save

# Tables of labels.


def test_metadata_gives_the_labels_that_datasets_reads_from_it(tmp_path: Path) -> None:
    folder = put_pictures(tmp_path / "d", *(f"x/{i}.png" for i in range(4)))
    rows = [
        {"file_name": f"x/{i}.png", "label": ("cat", "dog")[i % 2], "caption": f"no. {i}"}
        for i in range(4)
    ]
    lines = [",".join(rows[0]), *(",".join(row.values()) for row in rows)]
    forms = {
        "metadata.csv": "\ufeff" + "\n".join(lines),  # as Excel writes it
        "metadata.jsonl": "\n".join(json.dumps(row) for row in rows),
    }
    fingerprints = {open_dataset(folder).fingerprint}
    for name, text in forms.items():
        (folder / name).write_text(text)
        source = open_dataset(folder)
        theirs = datasets.load_dataset(
            "imagefolder", data_dir=str(folder), split="train", cache_dir=tmp_path / "c"
        )
        assert classes(source) == theirs["label"]
        assert (source.label_column, source.class_names) == ("label", ("cat", "dog"))
        assert len(open_dataset(folder, label_column="caption").class_names) == 4
        fingerprints.add(source.fingerprint)
        (folder / name).unlink()
    assert len(fingerprints) == 2  # the labels count, the form of the table does not


def test_rows_and_pictures_that_do_not_meet_are_counted(tmp_path: Path) -> None:
    put_pictures(tmp_path, *(f"{split}/{i}.png" for split in ("train", "test") for i in range(3)))
    rows = b"train/0.png,5\ntrain/2.png,2\ntest/0.png,1\ntrain/9.png,1\n"
    put(tmp_path / "metadata.csv", b"file_name,label\n" + rows)
    assert classes(tmp_path) == ["5", None, "2"]
    assert "1 of 3 images have no label" in described(tmp_path)
    assert "name no picture of the folder: 1, e.g. train/9.png" in described(tmp_path)
    assert classes(tmp_path, split="test") == ["1", None, None]


@pytest.mark.parametrize(
    ("text", "column", "expected"),
    [
        (b"name,label\n0.png,u\n", "", "no column file_name"),
        (b"name,label\n0.png,u\n", "label", "no column file_name"),
        (b"file_name,text\ncats/0.png,u\n", "", "it has text: the classes are the folders"),
        (b"file_name,text\ncats/0.png,u\n", "kind", "no column kind; it has text"),
        (b"file_name,label\n\xff\xfe,u\n", "", "cannot be read"),
    ],
)
def test_a_table_that_gives_no_labels_says_so(
    tmp_path: Path, text: bytes, column: str, expected: str
) -> None:
    put_pictures(tmp_path, "cats/0.png")
    put(tmp_path / "metadata.csv", text)
    if column or "cannot" in expected:
        refused(tmp_path, expected, label_column=column)
    else:
        assert open_dataset(tmp_path).class_names == ("cats",)
        assert expected in described(tmp_path)


def test_a_table_of_another_name_says_whose_is_read(tmp_path: Path) -> None:
    put(put_pictures(tmp_path, "0.png") / "labels.csv", b"id,label\n0,cat\n")
    whose = "labels come from a metadata.csv with the columns file_name, label"
    assert whose in described(tmp_path)


# Masks, copies, folders.


@pytest.mark.parametrize(
    ("files", "masks"),
    [
        (("{i}.jpg", "{i}_mask.png"), True),
        (("a/scan ({i}).png", "a/scan ({i})_mask.png"), True),
        (("JPEGImages/{i}.jpg", "SegmentationClass/{i}.png"), True),
        (("d/images/{i}.jpg", "d/masks/{i}.png"), True),
        (("with_mask/{i}.jpg", "without_mask/{i}.jpg"), False),
        (("cats/{i}.jpg", "dogs/{i}.jpg"), False),  # both are numbered
        (("toys/{i}.jpg", "labels/z{i}.jpg"), False),
        (("{i}_mask.png",), False),  # of masks alone
    ],
)
def test_what_is_named_like_masks_is_said(
    tmp_path: Path, files: tuple[str, ...], masks: bool
) -> None:
    put_pictures(tmp_path, *(file.format(i=i) for file in files for i in range(3)))
    assert len(open_dataset(tmp_path)) == 3 * len(files)
    assert ("3 pictures are named like masks of others" in described(tmp_path)) == masks


def test_deep_folders_empty_folders_and_look_alikes_are_said(tmp_path: Path) -> None:
    put_pictures(tmp_path, "a/0.png", "b/1.png", "b/below/2.png", "B/3.png")
    (tmp_path / "empty").mkdir()
    put(tmp_path / "notes" / "x.pdf")
    text = described(tmp_path)
    assert "1 images in folders below their class, e.g. b/below/2.png" in text
    assert "2 folders without a picture are no classes: empty, notes" in text
    assert "in capitals, spaces or the form of accents alone: 'B' and 'b'" in text
    tar = write_tar(tmp_path / "x.tar", ("cats/0.png", picture(0)), ("dogs/1.png", picture(0)))
    assert "the folders in the tars are no labels" in described(tar)


def test_endings_that_are_numbers_make_no_line_each(tmp_path: Path) -> None:
    put_pictures(tmp_path, "0.png")
    for i in range(3 * REASONS):
        put(tmp_path / f"frame.{i:04d}")
    text = described(tmp_path)
    assert text.count("left out") == REASONS + 1
    assert f"{2 * REASONS} more for {2 * REASONS} other reasons" in text


def test_what_is_not_looked_into_has_a_remedy(tmp_path: Path) -> None:
    for name, remedy in (("x.heic", "convert them to JPEG or PNG"), ("y.zip", "unpack them")):
        put(tmp_path / name, b"z")
        refused(tmp_path, remedy)
    refused(tmp_path / "y.zip", "unpack it, and give the folder")
    refused("", "--dataset is empty")


# What a picture's numbers mean.


def test_of_several_frames_the_first_is_taken_and_said(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (4, 4), (80 * i, 0, 0)) for i in range(3)]
    frames[0].save(tmp_path / "a.png", save_all=True, append_images=frames[1:])
    assert "several frames or pages the first is taken, e.g. a.png" in described(tmp_path)
    assert open_dataset(tmp_path).read(0)[0].convert("RGB").getpixel((0, 0)) == (0, 0, 0)


@pytest.mark.parametrize("values", [(-1.0, 1.0), (0.5, np.inf), (np.nan, np.nan)])
def test_floats_of_an_unknown_scale_are_no_greys(values: tuple[float, float]) -> None:
    floats = np.array([values, values], np.float32)
    with pytest.raises(ValueError, match="no greys"):
        to_rgb(Image.fromarray(floats))
    floats[0] = np.nan, 0.5  # a hole in a picture of usual floats
    floats[1] = 0.0, 1.0
    assert np.asarray(to_rgb(Image.fromarray(floats)))[..., 0].tolist() == [[0, 127], [0, 255]]


def test_pictures_of_floats_have_one_scale_for_the_whole_data_set(tmp_path: Path) -> None:
    def put_floats(name: str, i: int, *values: float) -> None:
        file = put(tmp_path / name / f"{i:02d}.tif")
        Image.fromarray(np.array([values], np.float32)).save(file)

    for name, most in (("bytes", 200.0), ("ones", 1.0001), ("mixed", 1.0)):
        for i in range(40):
            put_floats(name, i, 0, most * (0.001 if i == 5 else 0.5), 0, most * (i != 5))
    put_floats("mixed", 5, 0, 9)
    for i in range(0, 40, 3):
        put_floats("mixed", i, np.inf, np.nan)
    for name, bright in (("bytes", [0, 100, 0, 200]), ("ones", [0, 127, 0, 255])):
        source = open_dataset(tmp_path / name)
        greys = [np.asarray(to_rgb(source.read(i)[0]))[0, :, 0].tolist() for i in (7, 5)]
        assert greys == [bright, [0, 0, 0, 0]]
    clipped = "all taken for 0 to 1, what lies above it (up to 1.0001) is clipped"
    assert clipped in described(tmp_path / "ones")
    with pytest.raises(ValueError, match="floats from 0 to 9, which are no greys from 0 to 1"):
        open_dataset(tmp_path / "mixed").read(5)


def test_a_data_set_of_black_pictures_is_said(tmp_path: Path) -> None:
    put_pictures(tmp_path, *(f"{i}.png" for i in range(8)))
    assert "are black" not in described(tmp_path)
    for i in range(7):
        Image.new("RGB", (4, 4), (i, 0, 0)).save(tmp_path / f"{i}.png")
    assert "warning: 7 of 8 pictures that were looked at are black" in described(tmp_path)


@pytest.mark.parametrize(
    ("values", "expected", "note"),
    [
        (np.array([0, 1], np.uint8), [0, 255], "from 0 to 1: taken for 0 to 1"),  # dSprites
        (np.array([False, True]), [0, 255], "taken for 0 to 1"),
        (np.array([0, 65535], np.uint16), [0, 255], "taken for 0 to 65535"),
        (np.array([0, 200], np.int64), [0, 200], "taken for 0 to 255"),
        (np.array([np.nan, 1.0]), [0, 255], "NaN for 0"),
        (np.array([0.0, 1.0001]), [0, 255], "6 beyond it are clipped"),
        (np.array([0, 200], np.uint8), [0, 200], ""),
    ],
)
def test_arrays_of_any_numbers(tmp_path: Path, values: Any, expected: list[int], note: str) -> None:
    np.savez(tmp_path / "x.npz", images=np.broadcast_to(values, (3, 2, 2)))
    image, _ = open_dataset(tmp_path / "x.npz").read(1)
    assert np.asarray(image)[0].tolist() == expected
    text = described(tmp_path / "x.npz")
    assert ("values from" in text) == bool(note)
    assert note in text


def test_arrays_of_unusual_shapes_and_labels(tmp_path: Path) -> None:
    file = tmp_path / "x.npz"
    colour = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), np.uint8)
    first = np.moveaxis(colour, 3, 1)
    np.savez(file, images=first, labels=[1.0, np.nan, 0.0], names=np.zeros((3, 2)))
    assert same_pictures(open_dataset(file), colour)
    assert labels(open_dataset(file)) == [1, -1, 0]
    assert "not used: names" in described(file)
    np.savez(file, images=colour, labels=[0.5, 1, 2])
    assert labels(open_dataset(file)) == [-1, -1, -1]
    assert "the labels hold 0.5, no classes" in described(file)
    np.savez(file, images=np.zeros((3, 8, 8, 4), np.uint8))
    assert "four channels are taken for red, green, blue and opacity" in described(file)
    for values, match in (
        (np.array([b"a", None]), "allow_pickle"),
        (np.full((2, 4, 4), np.nan), "NaN"),
    ):
        np.savez(file, images=values)
        refused(file, match)
    put(file, b"PK\3\4")
    refused(file, "damaged or no NumPy archive")


# Tables of pictures.


def test_labels_as_floats_rows_without_a_picture_and_files_that_are_gone(tmp_path: Path) -> None:
    put(tmp_path / "1.png", picture(1))
    paths = (None, str(tmp_path / "1.png"), "gone.png")
    struct = {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}
    place = save(
        tmp_path / "x",
        {"image": [{"bytes": None, "path": path} for path in paths], "label": [1.0, None, 0.0]},
        {"image": struct, "label": datasets.Value("float64")},
    )
    source = open_dataset(place)
    assert source.read(1)[1] == -1
    assert source.class_names == ("0", "1")
    assert "1 of 3 images have no label" in described(place)
    with pytest.raises(ValueError, match="the row has no picture"):
        source.read(0)
    with pytest.raises(FileNotFoundError):
        source.read(2)


def test_parquet_files_that_are_no_one_table(tmp_path: Path) -> None:
    def write(name: str, **columns: Any) -> None:
        datasets.Dataset.from_dict(columns).to_parquet(put(tmp_path / name))

    write("a.parquet", blob=[picture(0)], label=[1])
    assert len(open_dataset(tmp_path, image_column="blob")) == 1
    match = r"blob \(binary\), label \(int64\)\): .* in blob, say so with --image-column"
    refused(tmp_path, match)
    write("b.parquet", blob=[picture(1)], label=["x"])
    disagree = r"the files disagree about the column 'label' \(int64, string\)"
    refused(tmp_path, disagree, image_column="blob")
    write("b.parquet", blob=[picture(1)])
    differ = "a.parquet has the columns blob, label, b.parquet has blob: name one file"
    refused(tmp_path, differ, image_column="blob")
    write("b.parquet", blob=[], label=[])
    (tmp_path / "a.parquet").unlink()
    refused(tmp_path / "b.parquet", "no rows", image_column="blob")
    put(tmp_path / "b.parquet", b"PAR1")
    refused(tmp_path, "is damaged")
