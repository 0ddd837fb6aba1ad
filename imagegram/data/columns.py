"""Which columns of a table hold pictures and labels: the named ones, else those of usual types."""

from collections.abc import Sequence
from typing import Any

from imagegram.cli import UserError
from imagegram.data.dataset import DatasetOptions
from imagegram.data.wording import first_names

# Other names that people give to a picture's and a label's column, the usual one first.
IMAGE_NAMES = ("image", "img", "jpg", "jpeg", "png", "webp", "images", "picture")
LABEL_NAMES = ("label", "labels", "class", "cls", "class_id", "class_name", "target")
FLOATS = ("float16", "float32", "float64", "double", "float")
BYTES = ("binary", "large_binary")
TEXT = ("string", "large_string")


def columns_of(name: str, features: Any, wanted: DatasetOptions) -> tuple[str, str]:
    """The column of pictures and that of labels, "" for none."""
    for given in (wanted.image_column, wanted.label_column, wanted.group):
        if given and given not in features:
            raise UserError(f"{name} has no column {given!r}; it has {_described(features)}")
    image_column = _image_column(name, features, wanted.image_column)
    return image_column, _label_column(name, features, wanted.label_column)


def _holds_image(feature: object) -> bool:
    """Whether a feature is a picture, or the bytes or the path of one."""
    if isinstance(feature, dict):
        return {"bytes", "path"} >= set(feature) >= {"bytes"}
    return is_picture(feature) or _dtype(feature) in (*BYTES, *TEXT)


def image_candidates(features: Any) -> list[str]:
    """Columns of pictures: by type, else structs of bytes and path, else bytes by usual names."""
    possible = [name for name, feature in features.items() if _holds_image(feature)]
    typed = [name for name in possible if is_picture(features[name])]
    structs = [name for name in possible if isinstance(features[name], dict)]
    named = [name for name in possible if name in IMAGE_NAMES and _dtype(features[name]) in BYTES]
    return typed or structs or named


def _dtype(feature: object) -> str:
    return str(getattr(feature, "dtype", ""))


def _described(features: Any) -> str:
    """The columns with their types, in a line."""
    return first_names(f"{name} ({in_words(feature)})" for name, feature in features.items())


# The types of `datasets`, told by their names: to import it takes seconds.


def is_picture(feature: object) -> bool:
    """Whether a column's values are pictures."""
    return type(feature).__name__ == "Image"


def has_names(feature: object) -> bool:
    """Whether a column's values are rows of names."""
    return type(feature).__name__ == "ClassLabel"


def in_words(feature: object) -> str:
    """The type of a column."""
    if is_picture(feature):
        return "pictures"
    each = getattr(feature, "feature", None)
    if each is not None:
        return f"lists of {in_words(each)}"
    return _dtype(feature) or type(feature).__name__


def _one_of(name: str, candidates: list[str], usual: Sequence[str], option: str) -> str:
    """The only candidate, else the one with a usual name; UserError with the choices."""
    if len(candidates) < 2:
        return "".join(candidates)
    if named := [word for word in usual if word in candidates]:
        return named[0]
    several = f"{name} has several columns that may be meant, {', '.join(candidates)}"
    raise UserError(f"{several}: name one with --{option}")


def _image_column(name: str, features: Any, given: str) -> str:
    """The column of pictures; UserError where there is none, or the named one holds others."""
    column = given or _one_of(name, image_candidates(features), IMAGE_NAMES, "image-column")
    columns = f"(columns: {_described(features)})"
    if not column:
        possible = [column for column, feature in features.items() if _holds_image(feature)]
        remedy = "none of them holds one picture a row"
        if possible:
            remedy = f"if pictures or the names of their files are in {first_names(possible)}"
            remedy += ", say so with --image-column"
        raise UserError(f"{name} has no image column {columns}: {remedy}")
    if not _holds_image(features[column]):
        kind = f"{in_words(features[column])}, not one picture a row"
        raise UserError(f"column {column!r} of {name} holds {kind} {columns}")
    return column


def _label_column(name: str, features: Any, given: str) -> str:
    """The column of labels, "" for none; UserError where the named one holds no classes."""

    def classes(feature: object) -> bool:  # those of ClassLabel are int64
        return _dtype(feature) in (*TEXT, *FLOATS, "bool") or "int" in _dtype(feature)

    if given and not classes(features[given]):
        kind = in_words(features[given])
        raise UserError(
            f"column {given!r} of {name} holds {kind}, no classes (integers, strings or ClassLabel)"
        )
    typed = [column for column, feature in features.items() if has_names(feature)]
    named = [column for column in LABEL_NAMES if column in features and classes(features[column])]
    return given or _one_of(name, typed or named[:1], LABEL_NAMES, "label-column")
