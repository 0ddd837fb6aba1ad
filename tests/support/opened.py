"""Data sets as they are opened, or refused."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from imagegram.cli import UserError
from imagegram.data.dataset import ImageDataset
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


def same_pictures(source: ImageDataset, expected: Iterable[Any]) -> bool:
    """Whether the pictures of a data set have these pixels, from the first one on."""
    return all(np.array_equal(np.asarray(source.read(i)[0]), one) for i, one in enumerate(expected))


def labels(source: ImageDataset) -> list[int]:
    return [source.read(i)[1] for i in range(len(source))]


def classes(place: str | Path | ImageDataset, **options: Any) -> list[str | None]:
    """The name of every image's class."""
    source = place if isinstance(place, ImageDataset) else open_dataset(place, **options)
    return [source.class_names[label] if label >= 0 else None for label in labels(source)]
