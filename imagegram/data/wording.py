"""Names in lines for people."""

import unicodedata
from collections.abc import Iterable

SHOWN = 8  # names in a line


def first_names(names: Iterable[object]) -> str:
    """Some names in a line, with the number of those that it does not show."""
    everything = [printable(str(name)) for name in names]
    more = f" and {len(everything) - SHOWN} more" if len(everything) > SHOWN else ""
    return ", ".join(everything[:SHOWN]) + more


def taken(images: str, labels: str, rest: Iterable[object] = (), none: str = "no labels") -> str:
    """What is taken of a data set, and what is not: `none` stands for no labels."""
    unused = first_names(rest)
    said = f"images from {images}, {f'labels from {labels}' if labels else none}"
    return said + f"; not used: {unused}" * bool(unused)


def look_alikes(names: Iterable[str]) -> str:
    """Names that people would take for one, their differences spelled out; "" for none."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(unicodedata.normalize("NFC", name).casefold().strip(), []).append(name)
    return "; ".join(" and ".join(map(ascii, group)) for group in groups.values() if len(group) > 1)


def printable(name: str) -> str:
    """A name as one line of text: bytes that are no UTF-8, and line ends, are spelled out."""
    text = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
