"""Data sets as people have them, made for the tests."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import datasets
from PIL import Image

from imagegram.data.dataset import ImageDataset
from imagegram.data.scenes import scene
from imagegram.data.spec import DatasetSpec


def open_dataset(name: str, **options: Any) -> ImageDataset:
    """Open a data set as it is recorded."""
    image_size = options.pop("image_size", 32)
    spec = DatasetSpec(name, **options)
    assert DatasetSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec
    return spec.open(image_size)


def picture(i: int, kind: str = "PNG") -> bytes:
    """The bytes of a small picture, another one for every `i`."""
    buffer = io.BytesIO()
    Image.fromarray(scene(2, i, 8)[0]).save(buffer, kind)
    return buffer.getvalue()


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


IMAGE = datasets.Image()  # the type of a column


def parquet(path: Path, columns: Any, features: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    datasets.Dataset.from_dict(columns, features=datasets.Features(features)).to_parquet(path)


def save(path: Path, columns: Any, features: dict[str, Any]) -> str:
    datasets.Dataset.from_dict(columns, features=datasets.Features(features)).save_to_disk(path)
    return str(path)


def classes(source: ImageDataset) -> list[str | None]:
    """The name of every image's class."""
    return [source.class_names[label] if label >= 0 else None for label in labels(source)]


def labels(source: ImageDataset) -> list[int]:
    return [source.read(i)[1] for i in range(len(source))]


def description(source: ImageDataset) -> str:
    return "\n".join(source.describe())
