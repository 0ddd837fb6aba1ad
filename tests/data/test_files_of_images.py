"""Tars, tables and arrays as people have them: nothing lost, nothing mislabelled, nothing passed
over in silence."""

import gzip
import json
import os
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image

from imagegram.cli import UserError
from imagegram.data.scenes import scene
from tests.support.datasets import (
    IMAGE,
    classes,
    description,
    labels,
    open_dataset,
    parquet,
    picture,
    put,
    save,
    write_tar,
)


def test_keys_end_at_the_first_dot_of_the_base_name(tmp_path: Path) -> None:
    members = []
    for i, folder in enumerate(("./", "v1.0/", "a/b.c/")):
        members += [(f"{folder}{i}.PNG", picture(i)), (f"{folder}{i}.CLS", str(i).encode())]
    members += [
        ("cat.0.jpg", picture(7, "JPEG")),
        ("0.seg.png", picture(8)),
        ("._0.png", b"x"),
        ("README", b"x"),
    ]
    source = open_dataset(str(write_tar(tmp_path / "x.tar", *members)))
    assert labels(source) == [0, 1, 2]
    assert sum(left.count for left in source.left_out) == 4
    assert "a dot before its ending" in description(source)


def test_two_pictures_of_a_sample_ask_for_the_column(tmp_path: Path) -> None:
    members = [
        m
        for i in range(3)
        for m in ((f"{i}.jpg", picture(i, "JPEG")), (f"{i}.png", picture(9 + i)))
    ]
    tar = str(write_tar(tmp_path / "x.tar", *members))
    with pytest.raises(
        UserError, match=r"two pictures of one sample, 0.jpg and 0.png: .*--image-column jpg"
    ):
        open_dataset(tar)
    source = open_dataset(tar, image_column="png")
    assert len(source) == 3
    assert source.read(0)[0].format == "PNG"
    assert "3 pictures of another column (jpg)" in description(source)
    with pytest.raises(UserError, match="no column 'webp'"):
        open_dataset(tar, image_column="webp")


@pytest.mark.parametrize(
    ("members", "expected", "names"),
    [
        ([("cls", b"cat"), ("cls", b"dog"), ("cls", b"cat")], [0, 1, 0], ("cat", "dog")),
        ([("cls", b"1"), ("cls", b""), ("cls", b"0\n")], [1, -1, 0], ("0", "1")),
        ([("cls", b"1"), ("cls", b"cat"), ("cls", b"0")], [1, 2, 0], ("0", "1", "cat")),
        ([("cls", b"01"), ("cls", b"1"), ("cls", b"1_0")], [0, 1, 2], ("01", "1", "1_0")),
        ([("cls", b"10"), ("cls", b"9"), ("cls", b"11")], [1, 0, 2], ("9", "10", "11")),
        ([("cls", b"2.0"), ("cls", b"10.0"), ("cls", b"9.0")], [0, 2, 1], ("2", "9", "10")),
        ([("cls", b"1"), ("cls", b"1.0"), ("cls", b"2")], [0, 1, 2], ("1", "1.0", "2")),
        # no number, but a digit
        ([("cls", "\u0661".encode()), ("cls", b"1")], [1, 0], ("1", "\u0661")),
        ([("label", b"b"), ("label", b"a"), ("label", b"b")], [1, 0, 1], ("a", "b")),
        ([("cls", b"30000000"), ("cls", b"7"), ("cls", b"30000000")], [1, 0, 1], ("7", "30000000")),
        ([("cls", b"-1"), ("cls", b"2"), ("cls", b"2")], [0, 1, 1], ("-1", "2")),
        (
            [("json", b'{"label": 1}'), ("json", b'{"label": 0}'), ("json", b"[")],
            [1, 0, -1],
            ("0", "1"),
        ),
        (
            [("json", b'{"class": "b"}'), ("json", b'{"class": "a"}'), ("json", b"{}")],
            [1, 0, -1],
            ("a", "b"),
        ),
        ([("cls", b"0"), ("cls", b"1019")], [0, 1], ("0", "1019")),
        ([("cls", b"0"), ("cls", b"nan"), ("cls", b"1")], [0, -1, 1], ("0", "1")),
        ([("cls", b"nan"), ("cls", b"cat"), ("cls", b"nan")], [1, 0, 1], ("cat", "nan")),  # bread
        ([("txt", b"a cat"), ("txt", b"a dog"), ("txt", b"an owl")], [-1, -1, -1], ()),
    ],
)
def test_labels_of_every_form(
    tmp_path: Path, members: list[tuple[str, bytes]], expected: list[int], names: tuple[str, ...]
) -> None:
    parts = [
        m
        for i, (column, text) in enumerate(members)
        for m in ((f"{i}.png", picture(i)), (f"{i}.{column}", text))
    ]
    source = open_dataset(str(write_tar(tmp_path / "x.tar", *parts)))
    assert (labels(source), source.class_names) == (expected, names)
    if not names:
        assert "--label-column txt" in description(source)
        named = open_dataset(str(tmp_path / "x.tar"), label_column="txt")
        assert labels(named) == [0, 1, 2]
    elif -1 in expected:
        assert "1 of 3 images have no label" in description(source)
    elif "cat" in names and "0" in names:
        assert (
            "not all labels are numbers, e.g. 'cat': classes are named by their text"
            in description(source)
        )


def test_links_and_corrections_inside_a_tar(tmp_path: Path) -> None:
    links = [("0.png", picture(0)), ("1.png", "0.png"), ("2.png", "gone.png")]
    source = open_dataset(str(write_tar(tmp_path / "links.tar", *links)))
    assert np.array_equal(np.asarray(source.read(0)[0]), np.asarray(source.read(1)[0]))
    with pytest.raises(FileNotFoundError, match="does not hold"):
        source.read(2)
    assert source.name_of(2) == "links.tar:2.png"
    twice = [("0.png", picture(0)), ("0.cls", b"0"), ("./0.png", picture(5)), ("0.cls", b"2")]
    source = open_dataset(str(write_tar(tmp_path / "twice.tar", *twice)))
    assert classes(source) == ["2"]
    assert np.array_equal(np.asarray(source.read(0)[0]), scene(2, 5, 8)[0])


def test_tars_below_and_their_splits(tmp_path: Path) -> None:
    for split, count in (("train", 3), ("test", 1)):
        for i in range(count):
            write_tar(tmp_path / "d" / split / f"{i:05d}.tar", ("0.png", picture(i)))
            write_tar(tmp_path / "flat" / f"imagenet-{split}-{i:06d}.tar", ("0.png", picture(i)))
    for name in ("d", "flat"):
        assert (
            len(open_dataset(str(tmp_path / name))),
            open_dataset(str(tmp_path / name)).split,
        ) == (3, "train")
        assert len(open_dataset(str(tmp_path / name), split="test")) == 1
    with pytest.raises(UserError, match="--split test does not apply"):
        open_dataset(str(write_tar(tmp_path / "one.tar", ("0.png", picture(0)))), split="test")


def test_compressed_tars_are_refused_with_the_remedy(tmp_path: Path) -> None:
    packed = gzip.compress(write_tar(tmp_path / "x.tar", ("0.png", picture(0))).read_bytes())
    put(tmp_path / "gz" / "0.tar.gz", packed)
    put(tmp_path / "hidden" / "0.tar", packed)
    for name in ("gz", "gz/0.tar.gz", "hidden"):
        with pytest.raises(UserError, match="decompress it first"):
            open_dataset(str(tmp_path / name))
    write_tar(tmp_path / "gz" / "1.tar", ("0.png", picture(0)))
    with pytest.raises(UserError, match="more than one kind"):  # half of the data
        open_dataset(str(tmp_path / "gz"))


# Tables.


def test_columns_of_labels_of_every_type(tmp_path: Path) -> None:
    pictures = [Image.fromarray(scene(2, i, 8)[0]) for i in range(4)]
    for name, values, feature, expected, names in (
        ("ints", [0, 2, 1, 2], datasets.Value("int64"), [0, 2, 1, 2], ("0", "1", "2")),
        ("texts", ["b", "a", None, "b"], datasets.Value("string"), [1, 0, -1, 1], ("a", "b")),
        (
            "missing",
            [1, None, 0, 1],
            datasets.ClassLabel(names=["x", "y"]),
            [1, -1, 0, 1],
            ("x", "y"),
        ),
        ("bools", [True, False, True, True], datasets.Value("bool"), [1, 0, 1, 1], ("0", "1")),
    ):
        place = save(
            tmp_path / name,
            {"image": pictures, "label": values},
            {"image": IMAGE, "label": feature},
        )
        source = open_dataset(place)
        assert (labels(source), source.class_names) == (expected, names)
        assert source.label_column == "label"
        with pytest.raises(UserError, match=r"column 'image' of .* holds .*no classes"):
            open_dataset(place, label_column="image")


def test_a_choice_between_columns_is_named(tmp_path: Path) -> None:
    pictures = [Image.fromarray(scene(2, i, 8)[0]) for i in range(2)]
    place = save(
        tmp_path / "mask",
        {"mask": pictures[::-1], "image": pictures},
        {"mask": IMAGE, "image": IMAGE},
    )
    source = open_dataset(place)
    assert source.image_column == "image"
    assert "not used: mask" in description(source)
    place = save(
        tmp_path / "two", {"left": pictures, "right": pictures}, {"left": IMAGE, "right": IMAGE}
    )
    with pytest.raises(
        UserError,
        match="several columns that may be meant, left, right: name one with --image-column",
    ):
        open_dataset(place)
    classes = datasets.ClassLabel(names=["a"])
    columns = {"image": pictures, "coarse": [0, 0], "fine": [0, 0]}
    place = save(tmp_path / "labels", columns, {"image": IMAGE, "coarse": classes, "fine": classes})
    with pytest.raises(UserError, match="coarse, fine: name one with --label-column"):
        open_dataset(place)
    assert open_dataset(place, label_column="fine").label_column == "fine"


def test_columns_of_something_else_are_refused(tmp_path: Path) -> None:
    pictures = [Image.fromarray(scene(2, i, 8)[0]) for i in range(2)]
    columns = {
        "images": [pictures, pictures],
        "caption": ["a", "b"],
        "number": [0.5, 1],
        "raw": [picture(0), picture(1)],
    }
    features = {
        "images": datasets.List(IMAGE),
        "caption": datasets.Value("string"),
        "number": datasets.Value("float32"),
        "raw": datasets.Value("binary"),
    }
    place = save(tmp_path / "x", columns, features)
    with pytest.raises(UserError, match=r"no image column .*lists of pictures.*in caption, raw"):
        open_dataset(place)
    for column in ("images", "number"):
        with pytest.raises(UserError, match=f"column '{column}' of .*not one picture a row"):
            open_dataset(place, image_column=column)
    with pytest.raises(UserError, match="names no files: 'a'"):
        open_dataset(place, image_column="caption")
    with pytest.raises(UserError, match=r"'number' holds 0\.5, no classes"):
        open_dataset(place, image_column="raw", label_column="number")
    assert np.array_equal(
        np.asarray(open_dataset(place, image_column="raw").read(1)[0]), scene(2, 1, 8)[0]
    )


def test_a_downloaded_repository_of_parquet(tmp_path: Path) -> None:
    classes = datasets.ClassLabel(names=["a", "b"])
    for split, count in (("train", 4), ("test", 2)):
        pictures = [Image.fromarray(scene(2, i, 8)[0]) for i in range(count)]
        columns = {"image": pictures, "label": [i % 2 for i in range(count)]}
        place = tmp_path / "hub" / "data" / f"{split}-00000-of-00001.parquet"
        parquet(place, columns, {"image": IMAGE, "label": classes})
    put(tmp_path / "hub" / "README.md", b"# x")
    source = open_dataset(str(tmp_path / "hub"))
    assert (labels(source), source.class_names, source.split) == ([0, 1, 0, 1], ("a", "b"), "train")
    assert np.array_equal(np.asarray(source.read(3)[0]), scene(2, 3, 8)[0])
    assert len(open_dataset(str(tmp_path / "hub"), split="test")) == 2
    put(tmp_path / "hub" / "assets" / "logo.png", picture(0))
    with pytest.raises(UserError, match=r"1 pictures \(assets/logo.png\); 2 parquet files"):
        open_dataset(str(tmp_path / "hub"))


# Arrays.


def idx(values: np.ndarray) -> bytes:
    header = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, ">u4").tobytes()
    return header + values.astype(np.uint8).tobytes()


def test_parquet_rewritten_with_its_date_is_read_anew(tmp_path: Path) -> None:
    """As `rsync -t` or `tar` leave it: the cache of `datasets` knows files by their path and
    date."""
    file = tmp_path / "x" / "0.parquet"
    for i in (0, 1):
        columns = {"image": [Image.fromarray(scene(2, i, 8)[0])], "label": [i]}
        parquet(file, columns, {"image": IMAGE, "label": datasets.Value("int64")})
        os.utime(file, (1, 1))
        source = open_dataset(str(tmp_path / "x"))
        assert classes(source) == [str(i)]
        assert np.array_equal(np.asarray(source.read(0)[0]), scene(2, i, 8)[0])


@pytest.mark.parametrize("packed", [False, True])
def test_idx_files_as_mnist_is_distributed(tmp_path: Path, packed: bool) -> None:
    rng = np.random.default_rng(0)
    expected = {}
    for split, count in (("train", 5), ("t10k", 3)):
        images = rng.integers(0, 256, (count, 28, 28), np.uint8)
        numbers = rng.integers(0, 10, count)
        expected[split] = images, numbers
        for name, values in (("images-idx3", images), ("labels-idx1", numbers)):
            data = gzip.compress(idx(values)) if packed else idx(values)
            put(tmp_path / "raw" / f"{split}-{name}-ubyte{'.gz' * packed}", data)
    for wanted, split in (("", "train"), ("test", "t10k")):
        source = open_dataset(str(tmp_path), split=wanted)
        images, numbers = expected[split]
        assert classes(source) == list(map(str, numbers))
        assert all(
            np.array_equal(np.asarray(source.read(i)[0]), images[i]) for i in range(len(source))
        )
    one = open_dataset(str(tmp_path / "raw" / f"t10k-images-idx3-ubyte{'.gz' * packed}"))
    assert classes(one) == list(map(str, expected["t10k"][1]))
    file = tmp_path / "raw" / f"train-images-idx3-ubyte{'.gz' * packed}"
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(UserError, match="download it again"):
        open_dataset(str(tmp_path))


def test_idx_labels_may_lie_in_a_folder_of_their_own(tmp_path: Path) -> None:
    for split, count in (("train", 4), ("t10k", 2)):
        put(tmp_path / "images" / f"{split}-images-idx3-ubyte", idx(np.zeros((count, 8, 8))))
        put(tmp_path / "labels" / f"{split}-labels-idx1-ubyte", idx(np.arange(count)))
    for split, count in (("train", 4), ("test", 2)):
        assert classes(open_dataset(str(tmp_path), split=split)) == list(map(str, range(count)))


def test_npz_archives(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    grey = rng.integers(0, 256, (4, 8, 8), np.uint8)
    colour = rng.integers(0, 256, (3, 8, 8, 3), np.uint8)
    np.savez(
        tmp_path / "keras.npz", x_train=grey, y_train=[0, 1, 2, 1], x_test=grey[:2], y_test=[1, 0]
    )
    np.savez(
        tmp_path / "medmnist.npz",
        train_images=colour,
        train_labels=[[0], [1], [1]],
        val_images=colour[:1],
    )
    np.savez(
        tmp_path / "floats.npz", images=grey[..., None] / 255, labels=np.array(["b", "a", "b", "a"])
    )
    np.savez(tmp_path / "two.npz", left=grey, right=grey)
    for name, split, images, expected in (
        ("keras", "", grey, [0, 1, 2, 1]),
        ("keras", "test", grey[:2], [1, 0]),
        ("medmnist", "", colour, [0, 1, 1]),
        ("medmnist", "val", colour[:1], [-1]),
        ("floats", "", grey, [1, 0, 1, 0]),
    ):
        source = open_dataset(str(tmp_path / f"{name}.npz"), split=split)
        assert labels(source) == expected
        assert all(
            np.array_equal(np.asarray(source.read(i)[0]), images[i]) for i in range(len(source))
        )
    with pytest.raises(UserError, match="left, right: name one with --image-column"):
        open_dataset(str(tmp_path / "two.npz"))
    assert len(open_dataset(str(tmp_path / "two.npz"), image_column="left")) == 4
    np.savez(tmp_path / "none.npz", mean=np.zeros(3))
    with pytest.raises(UserError, match="no array 'images'; it has mean"):
        open_dataset(str(tmp_path / "none.npz"))


def test_bad_pictures_are_named_wherever_they_lie(tmp_path: Path) -> None:
    put(tmp_path / "d" / "a" / os.fsdecode(b"caf\xe9.jpg"), b"")
    source = open_dataset(str(tmp_path / "d"))
    assert source.name_of(0) == "a/caf\\xe9.jpg"
    assert json.loads(json.dumps(source.name_of(0))) == source.name_of(0)
    assert description(source).encode("utf-8")  # a line of text
