"""Data sets as people have them, made for the tests."""

import io
import json
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from PIL import Image

from imagegram.cli import UserError
from imagegram.data.dataset import ImageDataset
from imagegram.data.scenes import scene
from imagegram.data.spec import DatasetSpec


def open_dataset(place: str | Path, **options: Any) -> ImageDataset:
    """Open a data set as it is recorded."""
    image_size = options.pop("image_size", 32)
    spec = DatasetSpec(str(place), **options)
    assert DatasetSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec
    return spec.open(image_size)


def described(place: str | Path, **options: Any) -> str:
    """What is said of a data set."""
    return "\n".join(open_dataset(place, **options).describe())


def refused(place: str | Path, match: str, **options: Any) -> None:
    """That a data set is no such one, in one line that says so."""
    with pytest.raises(UserError, match=match) as refusal:
        open_dataset(place, **options)
    assert "\n" not in str(refusal.value)


def encoded(shown: Image.Image, kind: str, **options: Any) -> bytes:
    """The bytes of a picture's file."""
    buffer = io.BytesIO()
    shown.save(buffer, kind, **options)
    return buffer.getvalue()


def image(i: int) -> Image.Image:
    """A small picture, another one for every `i`."""
    return Image.fromarray(scene(2, i, 8)[0])


def picture(i: int, kind: str = "PNG") -> bytes:
    """The bytes of a small picture, another one for every `i`."""
    return encoded(image(i), kind)


def put_pictures(folder: Path, *names: str) -> Path:
    """A folder of pictures, another one under every name."""
    for i, name in enumerate(names):
        put(folder / name, picture(i))
    return folder


def same_pictures(source: ImageDataset, expected: Iterable[Any]) -> bool:
    """Whether the pictures of a data set have these pixels, from the first one on."""
    return all(np.array_equal(np.asarray(source.read(i)[0]), one) for i, one in enumerate(expected))


def put(path: Path, content: bytes = b"") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def write_tar(path: Path, *members: tuple[str, Any]) -> Path:
    """A tar; a member's content as text is the target of a hard link."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            if isinstance(content, str):
                info.type = tarfile.LNKTYPE
                info.linkname = content
                tar.addfile(info)
            else:
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return path


IMAGE = datasets.Image()  # the types of columns
NUMBER = datasets.Value("int64")


def table(columns: Any, features: dict[str, Any]) -> datasets.Dataset:
    return datasets.Dataset.from_dict(columns, features=datasets.Features(features))


def parquet(path: Path, columns: Any, features: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    table(columns, features).to_parquet(path)


def save(path: Path, columns: Any, features: dict[str, Any]) -> Path:
    table(columns, features).save_to_disk(path)
    return path


def labelled(labels: list[Any], feature: Any, first: int = 0) -> tuple[Any, dict[str, Any]]:
    """Columns of pictures and labels, and their types."""
    images = [image(i) for i in range(first, first + len(labels))]
    return {"image": images, "label": labels}, {"image": IMAGE, "label": feature}


def labels(source: ImageDataset) -> list[int]:
    return [source.read(i)[1] for i in range(len(source))]


def classes(place: str | Path | ImageDataset, **options: Any) -> list[str | None]:
    """The name of every image's class."""
    source = place if isinstance(place, ImageDataset) else open_dataset(place, **options)
    return [source.class_names[label] if label >= 0 else None for label in labels(source)]
