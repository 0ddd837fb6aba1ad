"""Classes by name, from the file that says them to the image that is drawn; and faults that
mislabelled images."""

from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from imagegram.cli import UserError
from imagegram.index.build import build_index
from imagegram.index.folder import Index
from imagegram.samplers import Aligned
from tests.support.datasets import image, picture, put, put_pictures, write_tar
from tests.support.opened import classes, described, open_dataset, refused
from tests.support.tables import IMAGE, NUMBER, labelled, parquet, table
from tests.support.tokenize import tokenize

JSON_LINES = (
    '\ufeff{"file_name": "s/0.png", "label": "a", "t": "\u2028\x85"}\n'
    '{"file_name": "s/1.png", "label": "b"}'
)
CAT_DOG = datasets.ClassLabel(names=["cat", "dog"])


def test_parquet_files_that_name_their_classes_differently_are_united_by_name(
    tmp_path: Path,
) -> None:
    others = datasets.ClassLabel(names=["dog", "cat", "owl"])
    parquet(tmp_path / "0.parquet", *labelled([0, 1, 1], CAT_DOG))
    parquet(tmp_path / "1.parquet", *labelled([0, 1, 2], others, first=3))
    assert classes(tmp_path) == ["cat", "dog", "dog", "dog", "cat", "owl"]
    assert open_dataset(tmp_path).class_names == ("cat", "dog", "owl")
    assert "the files name their classes differently: united by name" in described(tmp_path)
    parquet(tmp_path / "2.parquet", *labelled([0, 1], NUMBER, first=6))
    refused(tmp_path, "disagree about the column 'label'")


def test_labels_beyond_the_names_are_counted_and_minus_one_is_none_of_them(tmp_path: Path) -> None:
    cells = [{"bytes": picture(i), "path": None} for i in range(4)]
    array = pa.table({"image": cells, "label": [0, 7, -1, 1]})
    features = datasets.Features({"image": IMAGE, "label": CAT_DOG})
    pyarrow.parquet.write_table(array.cast(features.arrow_schema), tmp_path / "0.parquet")
    assert classes(tmp_path) == ["cat", None, None, "dog"]
    assert "1 labels are none of the 2 classes" in described(tmp_path)
    assert "1 of 4 images have no label" in described(tmp_path)


def test_numbers_are_classes_of_their_own_negative_ones_too(tmp_path: Path) -> None:
    numbers = [1, -1, 1, -1]
    parquet(tmp_path / "p" / "0.parquet", *labelled(numbers, NUMBER))
    np.savez(tmp_path / "a.npz", images=[np.array(image(i)) for i in range(4)], labels=numbers)
    folder = put_pictures(tmp_path / "f", *(f"{i}.png" for i in range(4)))
    rows = [f"{i}.png,{number}" for i, number in enumerate(numbers)]
    (folder / "metadata.csv").write_text("\n".join(["file_name,label", *rows]))
    for name in ("p", "a.npz", "f"):
        assert classes(tmp_path / name) == ["1", "-1", "1", "-1"]
        assert open_dataset(tmp_path / name).class_names == ("-1", "1")
        assert "2 labels are -1: a class like the others" in described(tmp_path / name)


def test_one_picture_with_two_labels_is_refused(tmp_path: Path) -> None:
    put_pictures(tmp_path, "0.png", "1.png", "2.png")
    put(tmp_path / "metadata.csv", b"file_name,label\n0.png,cat\n1.png,cat\n0.png,cat\n")
    assert classes(tmp_path) == ["cat", "cat", None]
    put(tmp_path / "metadata.jsonl", b'{"file_name": "0.png", "label": "dog"}\n')
    refused(tmp_path, r"1 pictures have two labels \(0.png is 'cat' and 'dog'\)")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("metadata.csv", "\ufefffile_name;label\ns/0.png;a\ns/1.png;b\n"),
        ("metadata.csv", "file_name,label\ns/0.png,a\ns/1.png,b\n".encode("utf-16")),
        ("metadata.csv", "file_name,label\ns\\0.png,a\ns\\1.png,b\n"),
        ("metadata.csv", "File_Name, Label\ns/0.png, a\ns/1.png, b\n"),
        ("metadata.csv", "file_name,label,text\r\ns/0.png,a,\u2028\r\ns/1.png,b,x\r\n"),
        ("metadata.csv", "file_name,label\nROOT/s/0.png,a\nROOT/s/1.png,b\n"),
        ("metadata.jsonl", JSON_LINES),
    ],
)
def test_tables_as_other_programs_write_them(
    tmp_path: Path, name: str, content: str | bytes
) -> None:
    put_pictures(tmp_path, "s/0.png", "s/1.png")
    if isinstance(content, str):
        content = content.replace("ROOT", str(tmp_path)).encode()
    put(tmp_path / name, content)
    assert classes(tmp_path) == ["a", "b"]


def test_saved_sets_in_the_format_of_another_library_are_read(tmp_path: Path) -> None:
    data = table(*labelled([0, 1, 0, 1], CAT_DOG))
    for form in ("pandas", "arrow", "numpy"):
        data.with_format(form).save_to_disk(tmp_path / form)
        assert classes(tmp_path / form) == ["cat", "dog", "cat", "dog"]
    data.with_format("python", columns=["label"]).save_to_disk(tmp_path / "columns")
    assert open_dataset(tmp_path / "columns").read(1)[0].size == (8, 8)


def test_only_the_columns_that_are_needed_are_read(tmp_path: Path) -> None:
    cells = pa.array([{"bytes": picture(i), "path": None} for i in range(3)])
    maps = pa.array([[("k", 1)]] * 3, pa.map_(pa.string(), pa.int64()))
    numbers = pa.array([1, 2, 1])
    twice = pa.Table.from_arrays(
        [cells, maps, numbers, numbers, numbers], ["image", "map", "label", "x", "x"]
    )
    pyarrow.parquet.write_table(twice, tmp_path / "0.parquet")
    assert classes(tmp_path, image_column="image") == ["1", "2", "1"]


def test_labels_in_unusual_forms_are_read_or_a_line_says_how(tmp_path: Path) -> None:
    # Bytes that are not ASCII.
    texts = np.array(["caf\u00e9".encode(), b"a\xff", b"b"])
    np.savez(tmp_path / "b.npz", images=[np.array(image(i)) for i in range(3)], labels=texts)
    assert classes(tmp_path / "b.npz") == ["caf\u00e9", "a\\xff", "b"]
    # Partitions by label.
    for i, name in enumerate(("cat", "dog")):
        put(tmp_path / "h" / f"label={name}" / "0.png", picture(i))
        file = tmp_path / "t" / f"label={name}" / "0.parquet"
        parquet(file, {"image": [image(i)]}, {"image": IMAGE})
        write_tar(tmp_path / "w" / f"{name}.tar", ("0.png", picture(i)))
    assert classes(tmp_path / "h") == classes(tmp_path / "t") == ["cat", "dog"]
    assert "the names of the tars are no labels: unpack each" in described(tmp_path / "w")


def two_sets(tmp_path: Path) -> Index:
    """An index of apples and pears, and of pears and vans."""
    for i in range(40):
        put(tmp_path / "a" / ("apple", "pear")[i % 2] / f"{i:02d}.png", picture(i))
        put(tmp_path / "b" / ("pear", "van")[i % 2] / f"{i:02d}.png", picture(100 + i))
    folders = [tokenize(str(tmp_path / name), tmp_path / f"t_{name}").path for name in ("a", "b")]
    return build_index(folders, tmp_path / "input", tmp_path / "index")


def test_a_class_is_drawn_by_its_name_and_its_data_set(tmp_path: Path) -> None:
    index = two_sets(tmp_path)

    def drawn(label: str) -> set[tuple[int, int]]:
        samples = Aligned(context=2, label=label).sample(index, 60, np.random.default_rng(0))
        return set(map(tuple, index.images[samples.sources[:, 0, 0]][:, [0, 2]].tolist()))

    assert drawn("apple") == {(0, 0)}
    assert drawn("van") == {(1, 1)}
    assert drawn("a:pear") == drawn("0:pear") == drawn(f"{tmp_path}/a:pear") == {(0, 1)}
    assert drawn("b:pear") == {(1, 0)}
    with pytest.raises(UserError, match=r"several classes 'pear': name a:pear or b:pear"):
        drawn("pear")
    with pytest.raises(
        UserError, match=r"no image of class '0': its classes are a:apple, a:pear, b:pear, b:van"
    ):
        drawn("0")
    # Classes of two data sets are different ones, whatever they are called.
    assert len(np.unique(index.classes)) == 4


def test_one_data_set_is_not_indexed_twice(tmp_path: Path) -> None:
    whole = put(tmp_path / "d" / "a" / "0.png", picture(0)).parents[1]
    for i in range(30):
        put(whole / "a" / f"{i}.png", picture(i))
    first = tokenize(str(whole), tmp_path / "t").path
    (tmp_path / "link").symlink_to(first)
    for other in (first, first.parent / "." / "d" / ".." / "t", tmp_path / "link"):
        with pytest.raises(UserError, match="hold the same images: name one of them"):
            build_index([first, other], tmp_path / "ii", tmp_path / "i")
    part = tokenize(f"{whole}/", tmp_path / "part", images=10).path
    with pytest.raises(UserError, match="hold the same images"):
        build_index([first, part], tmp_path / "ii", tmp_path / "i")


def test_copies_between_data_sets_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for i in range(20):
        put(tmp_path / "a" / f"{i}.png", picture(i))
        put(tmp_path / "b" / f"{i}.png", picture(i + 15))
    folders = [tokenize(str(tmp_path / name), tmp_path / f"t_{name}").path for name in ("a", "b")]
    build_index(folders, tmp_path / "ii", tmp_path / "i")
    assert ": 5 images have the tokens of images of other data sets" in capsys.readouterr().out
