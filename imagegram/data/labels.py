"""Labels as data sets write them -> class numbers and names."""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from imagegram.data.dataset import printable

SPARE = 1000  # numbers that no image bears may lie between those that occur: classes missing from a subset


def from_numbers(values: Sequence[int | None]) -> tuple[NDArray[np.int32], tuple[str, ...], str]:
    """Whole numbers as labels: int32 [n], names of the classes, and a note where the numbers were changed.

    Numbers from 0 on are labels as they are; None is -1, no label, as is -1. Identifiers (large or negative numbers)
    would need a name for every number up to the largest: they become classes in their order.
    """
    known = sorted({value for value in values if value is not None and value != -1})
    if not known:
        return np.full(len(values), -1, np.int32), (), ""
    if known[0] >= 0 and known[-1] < 10 * len(known) + SPARE:
        labels = [-1 if value is None else value for value in values]
        return np.array(labels, np.int32), tuple(map(str, range(known[-1] + 1))), ""
    classes = {value: number for number, value in enumerate(known)}
    labels = [-1 if value is None else classes.get(value, -1) for value in values]
    note = f"the labels are identifiers ({known[0]} to {known[-1]}): {len(known)} classes in their order"
    return np.array(labels, np.int32), tuple(map(str, known)), note


def from_texts(values: Sequence[str | None]) -> tuple[NDArray[np.int32], tuple[str, ...]]:
    """Class names as labels: int32 [n] numbers in the order of the sorted names, and the names. None is -1."""
    classes = sorted({value for value in values if value is not None})
    numbers = {name: number for number, name in enumerate(classes)}
    labels = [-1 if value is None else numbers[value] for value in values]
    return np.array(labels, np.int32), tuple(map(printable, classes))


def from_files(texts: Sequence[str | None], names: Iterable[str]) -> tuple[NDArray[np.int32], tuple[str, ...], str]:
    """What label files hold -> labels int32 [n], class names, a note.

    Numbers where most are numbers: what is none then is no label (-1), counted in the note with the first of `names`.
    Else class names. None and empty: no label.
    """
    given = [text.strip() if text is not None else None for text in texts]
    numbers = [whole_number(text) for text in given]
    filled = sum(bool(text) for text in given)
    if filled and sum(number is not None for number in numbers) * 2 >= filled:
        labels, classes, note = from_numbers(numbers)
    else:
        labels, classes = from_texts([text or None for text in given])
        numbers = [0 if text else None for text in given]
        note = ""
    wrong = [
        f"{name}: {printable(text)[:40]!r}"
        for name, text, number in zip(names, given, numbers, strict=True)
        if text is not None and number is None
    ]
    missing = sum(text is None for text in given)
    if missing and filled:
        note += f"{'; ' * bool(note)}{missing} of {len(given)} images without a label: -1"
    if wrong:
        note += f"{'; ' * bool(note)}{len(wrong)} label{'s' * (len(wrong) > 1)} cannot be read, e.g. {wrong[0]}: -1"
    return labels, classes, note


def whole_number(text: str | None) -> int | None:
    """The number that a text is, or None."""
    try:
        return int(text) if text is not None else None
    except ValueError:
        return None
