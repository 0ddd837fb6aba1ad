"""Tars, tables and arrays as people have them: nothing lost, nothing mislabelled, nothing passed
over in silence."""

import gzip
import os
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest

from tests.support.datasets import image, picture, put, put_pictures, write_tar
from tests.support.opened import classes, described, labels, open_dataset, refused, same_pictures
from tests.support.tables import IMAGE, NUMBER, labelled, parquet, save


def test_keys_end_at_the_first_dot_of_the_base_name(tmp_path: Path) -> None:
    members = []
    for i, folder in enumerate(("./", "v1.0/", "a/b.c/")):
        members += [(f"{folder}{i}.PNG", picture(i)), (f"{folder}{i}.CLS", str(i).encode())]
    members += [("cat.0.jpg", picture(7, "JPEG")), ("0.seg.png", picture(8))]
    members += [("._0.png", b"x"), ("README", b"x")]
    tar = write_tar(tmp_path / "x.tar", *members)
    assert labels(open_dataset(tar)) == [0, 1, 2]
    assert sum(left.count for left in open_dataset(tar).left_out) == 4
    assert "a dot before its ending" in described(tar)


def test_two_pictures_of_a_sample_ask_for_the_column(tmp_path: Path) -> None:
    members = [(f"{i}.jpg", picture(i, "JPEG")) for i in range(3)]
    tar = write_tar(tmp_path / "x.tar", *members, *((f"{i}.png", picture(9 + i)) for i in range(3)))
    refused(tar, r"two pictures of one sample, 0.jpg and 0.png: .*--image-column jpg")
    source = open_dataset(tar, image_column="png")
    assert len(source) == 3
    assert source.read(0)[0].format == "PNG"
    assert "3 pictures of another column (jpg)" in described(tar, image_column="png")
    refused(tar, "no column 'webp'", image_column="webp")


@pytest.mark.parametrize(
    ("column", "texts", "expected", "names"),
    [
        ("cls", ["cat", "dog", "cat"], [0, 1, 0], ("cat", "dog")),
        ("cls", ["1", "", "0\n"], [1, -1, 0], ("0", "1")),
        ("cls", ["1", "cat", "0"], [1, 2, 0], ("0", "1", "cat")),
        ("cls", ["01", "1", "1_0"], [0, 1, 2], ("01", "1", "1_0")),
        ("cls", ["10", "9", "11"], [1, 0, 2], ("9", "10", "11")),
        ("cls", ["2.0", "10.0", "9.0"], [0, 2, 1], ("2", "9", "10")),
        ("cls", ["1", "1.0", "2"], [0, 1, 2], ("1", "1.0", "2")),
        ("cls", ["\u0661", "1"], [1, 0], ("1", "\u0661")),  # no number, but a digit
        ("label", ["b", "a", "b"], [1, 0, 1], ("a", "b")),
        ("cls", ["30000000", "7", "30000000"], [1, 0, 1], ("7", "30000000")),
        ("cls", ["-1", "2", "2"], [0, 1, 1], ("-1", "2")),
        ("json", ['{"label": 1}', '{"label": 0}', "["], [1, 0, -1], ("0", "1")),
        ("json", ['{"class": "b"}', '{"class": "a"}', "{}"], [1, 0, -1], ("a", "b")),
        ("cls", ["0", "1019"], [0, 1], ("0", "1019")),
        ("cls", ["0", "nan", "1"], [0, -1, 1], ("0", "1")),
        ("cls", ["nan", "cat", "nan"], [1, 0, 1], ("cat", "nan")),  # bread
        ("txt", ["a cat", "a dog", "an owl"], [-1, -1, -1], ()),
    ],
)
def test_labels_of_every_form(
    tmp_path: Path, column: str, texts: list[str], expected: list[int], names: tuple[str, ...]
) -> None:
    members = [(f"{i}.{column}", text.encode()) for i, text in enumerate(texts)]
    members += [(f"{i}.png", picture(i)) for i in range(len(texts))]
    tar = write_tar(tmp_path / "x.tar", *members)
    source = open_dataset(tar)
    assert (labels(source), source.class_names) == (expected, names)
    if not names:
        assert "--label-column txt" in described(tar)
        assert labels(open_dataset(tar, label_column="txt")) == [0, 1, 2]
    elif -1 in expected:
        assert "1 of 3 images have no label" in described(tar)
    elif "cat" in names and "0" in names:
        said = "not all labels are numbers, e.g. 'cat': classes are named by their text"
        assert said in described(tar)


def test_links_and_corrections_inside_a_tar(tmp_path: Path) -> None:
    links = [("0.png", picture(0)), ("1.png", "0.png"), ("2.png", "gone.png")]
    source = open_dataset(write_tar(tmp_path / "links.tar", *links))
    assert same_pictures(source, [image(0), image(0)])
    with pytest.raises(FileNotFoundError, match="does not hold"):
        source.read(2)
    assert source.name_of(2) == "links.tar:2.png"
    twice = [("0.png", picture(0)), ("0.cls", b"0"), ("./0.png", picture(5)), ("0.cls", b"2")]
    source = open_dataset(write_tar(tmp_path / "twice.tar", *twice))
    assert classes(source) == ["2"]
    assert same_pictures(source, [image(5)])


def test_tars_below_and_their_splits(tmp_path: Path) -> None:
    for split, count in (("train", 3), ("test", 1)):
        for i in range(count):
            write_tar(tmp_path / "d" / split / f"{i:05d}.tar", ("0.png", picture(i)))
            write_tar(tmp_path / "flat" / f"imagenet-{split}-{i:06d}.tar", ("0.png", picture(i)))
    for name in ("d", "flat"):
        source = open_dataset(tmp_path / name)
        assert (len(source), source.split) == (3, "train")
        assert len(open_dataset(tmp_path / name, split="test")) == 1
    one = write_tar(tmp_path / "one.tar", ("0.png", picture(0)))
    refused(one, "--split test does not apply", split="test")


def test_compressed_tars_are_refused_with_the_remedy(tmp_path: Path) -> None:
    packed = gzip.compress(write_tar(tmp_path / "x.tar", ("0.png", picture(0))).read_bytes())
    put(tmp_path / "gz" / "0.tar.gz", packed)
    put(tmp_path / "hidden" / "0.tar", packed)
    for name in ("gz", "gz/0.tar.gz", "hidden"):
        refused(tmp_path / name, "decompress it first")
    write_tar(tmp_path / "gz" / "1.tar", ("0.png", picture(0)))
    refused(tmp_path / "gz", "more than one kind")  # half of the data


# Tables.


@pytest.mark.parametrize(
    ("values", "feature", "expected", "names"),
    [
        ([0, 2, 1, 2], NUMBER, [0, 2, 1, 2], ("0", "1", "2")),
        (["b", "a", None, "b"], datasets.Value("string"), [1, 0, -1, 1], ("a", "b")),
        ([1, None, 0, 1], datasets.ClassLabel(names=["x", "y"]), [1, -1, 0, 1], ("x", "y")),
        ([True, False, True, True], datasets.Value("bool"), [1, 0, 1, 1], ("0", "1")),
    ],
)
def test_columns_of_labels_of_every_type(
    tmp_path: Path, values: list[Any], feature: Any, expected: list[int], names: tuple[str, ...]
) -> None:
    place = save(tmp_path / "x", *labelled(values, feature))
    source = open_dataset(place)
    assert (labels(source), source.class_names) == (expected, names)
    assert source.label_column == "label"
    refused(place, r"column 'image' of .* holds .*no classes", label_column="image")


def test_a_choice_between_columns_is_named(tmp_path: Path) -> None:
    pictures = [image(0), image(1)]

    def saved(features: dict[str, Any], **columns: Any) -> Path:
        return save(tmp_path / "-".join(columns), columns, features)

    place = saved({"mask": IMAGE, "image": IMAGE}, mask=pictures[::-1], image=pictures)
    assert open_dataset(place).image_column == "image"
    assert "not used: mask" in described(place)
    place = saved({"left": IMAGE, "right": IMAGE}, left=pictures, right=pictures)
    refused(place, "columns that may be meant, left, right: name one with --image-column")
    a = datasets.ClassLabel(names=["a"])
    features = {"image": IMAGE, "coarse": a, "fine": a}
    place = saved(features, image=pictures, coarse=[0, 0], fine=[0, 0])
    refused(place, "coarse, fine: name one with --label-column")
    assert open_dataset(place, label_column="fine").label_column == "fine"


def test_columns_of_something_else_are_refused(tmp_path: Path) -> None:
    pictures = [image(0), image(1)]
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
    refused(place, r"no image column .*lists of pictures.*in caption, raw")
    for column in ("images", "number"):
        refused(place, f"column '{column}' of .*not one picture a row", image_column=column)
    refused(place, "names no files: 'a'", image_column="caption")
    refused(place, r"'number' holds 0\.5, no classes", image_column="raw", label_column="number")
    assert same_pictures(open_dataset(place, image_column="raw"), pictures)


def test_a_downloaded_repository_of_parquet(tmp_path: Path) -> None:
    feature = datasets.ClassLabel(names=["a", "b"])
    for split, numbers in (("train", [0, 1, 0, 1]), ("test", [0, 1])):
        place = tmp_path / "data" / f"{split}-00000-of-00001.parquet"
        parquet(place, *labelled(numbers, feature))
    put(tmp_path / "README.md", b"# x")
    source = open_dataset(tmp_path)
    assert (labels(source), source.class_names, source.split) == ([0, 1, 0, 1], ("a", "b"), "train")
    assert same_pictures(source, map(image, range(4)))
    assert len(open_dataset(tmp_path, split="test")) == 2
    put_pictures(tmp_path, "assets/logo.png")
    refused(tmp_path, r"1 pictures \(assets/logo.png\); 2 parquet files")


def test_parquet_rewritten_with_its_date_is_read_anew(tmp_path: Path) -> None:
    """As `rsync -t` or `tar` leave it: the cache of `datasets` knows files by their path and
    date."""
    file = tmp_path / "x" / "0.parquet"
    for i in (0, 1):
        parquet(file, *labelled([i], NUMBER, first=i))
        os.utime(file, (1, 1))
        source = open_dataset(tmp_path / "x")
        assert classes(source) == [str(i)]
        assert same_pictures(source, [image(i)])


# Arrays.


def idx(values: np.ndarray) -> bytes:
    header = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, ">u4").tobytes()
    return header + values.astype(np.uint8).tobytes()


@pytest.mark.parametrize("end", ["", ".gz"])
def test_idx_files_as_mnist_is_distributed(tmp_path: Path, end: str) -> None:
    rng = np.random.default_rng(0)
    expected = {}
    for split, count in (("train", 5), ("t10k", 3)):
        images = rng.integers(0, 256, (count, 28, 28), np.uint8)
        numbers = rng.integers(0, 10, count)
        expected[split] = images, list(map(str, numbers))
        for name, values in (("images-idx3", images), ("labels-idx1", numbers)):
            data = gzip.compress(idx(values)) if end else idx(values)
            put(tmp_path / "raw" / f"{split}-{name}-ubyte{end}", data)
    one = open_dataset(tmp_path / "raw" / f"t10k-images-idx3-ubyte{end}")
    for source, split in (
        (open_dataset(tmp_path), "train"),
        (open_dataset(tmp_path, split="test"), "t10k"),
        (one, "t10k"),
    ):
        assert classes(source) == expected[split][1]
        assert same_pictures(source, expected[split][0])
    file = tmp_path / "raw" / f"train-images-idx3-ubyte{end}"
    file.write_bytes(file.read_bytes()[:-20])
    refused(tmp_path, "download it again")


def test_idx_labels_may_lie_in_a_folder_of_their_own(tmp_path: Path) -> None:
    for split, count in (("train", 4), ("t10k", 2)):
        put(tmp_path / "images" / f"{split}-images-idx3-ubyte", idx(np.zeros((count, 8, 8))))
        put(tmp_path / "labels" / f"{split}-labels-idx1-ubyte", idx(np.arange(count)))
    for split, count in (("train", 4), ("test", 2)):
        assert classes(tmp_path, split=split) == list(map(str, range(count)))


def test_npz_archives(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    grey = rng.integers(0, 256, (4, 8, 8), np.uint8)
    colour = rng.integers(0, 256, (3, 8, 8, 3), np.uint8)
    archives: dict[str, dict[str, Any]] = {
        "keras": {"x_train": grey, "y_train": [0, 1, 2, 1], "x_test": grey[:2], "y_test": [1, 0]},
        "medmnist": {
            "train_images": colour,
            "train_labels": [[0], [1], [1]],
            "val_images": colour[:1],
        },
        "floats": {"images": grey[..., None] / 255, "labels": ["b", "a", "b", "a"]},
        "two": {"left": grey, "right": grey},
        "none": {"mean": np.zeros(3)},
    }
    for name, content in archives.items():
        np.savez(tmp_path / f"{name}.npz", **content)
    for name, split, images, expected in (
        ("keras", "", grey, [0, 1, 2, 1]),
        ("keras", "test", grey[:2], [1, 0]),
        ("medmnist", "", colour, [0, 1, 1]),
        ("medmnist", "val", colour[:1], [-1]),
        ("floats", "", grey, [1, 0, 1, 0]),
    ):
        source = open_dataset(tmp_path / f"{name}.npz", split=split)
        assert labels(source) == expected
        assert same_pictures(source, images)
    refused(tmp_path / "two.npz", "left, right: name one with --image-column")
    assert len(open_dataset(tmp_path / "two.npz", image_column="left")) == 4
    refused(tmp_path / "none.npz", "no array 'images'; it has mean")


def test_bad_pictures_are_named_wherever_they_lie(tmp_path: Path) -> None:
    put(tmp_path / "a" / os.fsdecode(b"caf\xe9.jpg"), b"")
    source = open_dataset(tmp_path)
    assert source.name_of(0) == "a/caf\\xe9.jpg"
    assert described(tmp_path).encode("utf-8")  # a line of text
