"""Tables of pictures, made for the tests."""

from pathlib import Path
from typing import Any

import datasets

from tests.support.datasets import image

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
