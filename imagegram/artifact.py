"""Folders of results: which are ours, who writes there, what they were made from.

Every folder that this project writes holds a marker, `.imagegram`, written first: JSON with the
kind of the folder and the number of its format. What has none is somebody else's, and not touched.
"""

import re
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imagegram.cli import UserError
from imagegram.files import is_held, read_json, run_lock, write_json

MARKER = ".imagegram"
FORMAT = 1  # of all folders; one of a higher number was written by a newer version
REMEDY = "choose another folder"
GRACE = 60  # seconds in which others may start; one that does not hold its lock then is gone
# the marker, locks, what is left of `atomic`, what NFS leaves
ALWAYS = r"\.imagegram|\.lock.*|\.tmp-.*|\.nfs.*"
INDEX_FILES = (
    r"(tokenized|offset|table)\.\d+|corpus|images\.npy|index\.json(\.wrong)?|shard-\d+\.json"
)


@dataclass(frozen=True)
class Kind:
    """What a kind of folder holds."""

    what: str  # in messages: "holds files that are not WHAT"
    record: str = ""  # the file that says what the folder was made from
    guests: str = ""  # names that may lie in a folder that has no marker yet
    files: str = ""  # all names of one that is replaced as a whole; its lock then lies beside it


KINDS = {
    "tokens": Kind("tokens", "manifest.json"),
    "index": Kind("an index", "index.json", files=INDEX_FILES),
    "index_input": Kind("the input of an index", guests=r"(tokenized|offset)\.\d+|shard-\d+"),
    "images": Kind("generated images", "report.json"),
    "run": Kind("results of a night", "night.json", guests=r"(tokens|index|codec).*"),
    "figures": Kind("figures of a night"),
    "measured": Kind("what was measured", "figures.json"),
    "codec": Kind("a codec", "training/recipe.json"),
    "linear": Kind("a linear codec", "linear.json"),
}


class Artifact:
    """A folder of results of one kind: `claim` it, `lock` it, compare its record, `finish` it."""

    def __init__(self, path: Path, kind: str):
        self.path = path
        self.name = kind
        self.kind = KINDS[kind]

    def check(self) -> None:
        """UserError where results would be mixed with what is not of this kind. Touches nothing."""
        path = self.path
        if path.is_symlink() and not path.exists():
            raise UserError(f"{path} is a link whose target is gone: mend the link, or {REMEDY}")
        if path.exists() and not path.is_dir():
            raise UserError(f"{path} is a file: {REMEDY}")
        # Listed first: another process that claims the folder meanwhile begins with the marker.
        found = others(path, self.kind.guests)
        if self.is_ours():
            found = others(path, self.kind.files) if self.kind.files else []
        if found:
            what = f"files that are not {self.kind.what}, e.g. {found[0]!r}"
            raise UserError(f"{path} holds {what}: {REMEDY}")

    def is_ours(self) -> bool:
        """Whether the folder has the marker of this kind; UserError where it has another one."""
        marker = self.path / MARKER
        if not marker.exists():
            return False
        found = read_json(marker)
        if not isinstance(found, dict) or not {"kind", "format"} <= set(found):
            what = "it should hold a kind and a format. Choose another folder"
            raise UserError(f"{marker} is damaged: {what}")
        if found["kind"] != self.name:
            what = KINDS[found["kind"]].what if found["kind"] in KINDS else found["kind"]
            raise UserError(f"{self.path} holds {what}, not {self.kind.what}: {REMEDY}")
        if found["format"] > FORMAT:
            what = f"a newer version (format {found['format']}, this one knows {FORMAT})"
            raise UserError(f"{self.path} was written by {what}: update Imagegram")
        return True

    def claim(self) -> None:
        """Make the folder ours; `check` says where that must not be."""
        self.check()
        self.mark()

    def mark(self) -> None:
        """Create the folder with its marker."""
        self.path.mkdir(parents=True, exist_ok=True)
        if not (self.path / MARKER).exists():
            write_json(self.path / MARKER, {"kind": self.name, "format": FORMAT})

    def lock_file(self, rank: int = 0) -> Path:
        """The lock of a process; `rank` tells those apart that share the work."""
        number = f"-{rank}" if rank else ""
        if self.kind.files:
            return self.path.parent / f".lock-{self.path.name}{number}"
        return self.path / f".lock{number}"

    def lock(self, rank: int = 0) -> AbstractContextManager[None]:
        """Hold the folder for this process; UserError names the process that holds it already."""
        return run_lock(self.path, self.lock_file(rank))

    def others_at_work(self, processes: int, started: float) -> bool:
        """Whether another than the first of `processes` holds its lock, or may still be starting:
        `started` is when the caller began, by the monotonic clock."""
        locks = [self.lock_file(rank) for rank in range(1, processes)]
        return any(map(is_held, locks)) or (bool(locks) and time.monotonic() - started <= GRACE)

    def record(self) -> dict[str, Any] | None:
        """What the folder was made from; None where it is not ours, or not finished."""
        file = self.path / self.kind.record
        there = self.is_ours() and file.is_file()
        found: dict[str, Any] | None = read_json(file) if there else None
        return found

    def finish(self, record: Mapping[str, Any]) -> None:
        """Write the record: of index and images the done-marker, the last of all files."""
        file = self.path / self.kind.record
        file.parent.mkdir(exist_ok=True)
        write_json(file, record)


def others(folder: Path, ours: str = "") -> list[str]:
    """Names in a folder, sorted, that are neither `ours` (a regular expression) nor ALWAYS."""
    if not folder.is_dir():
        return []
    known = re.compile(f"{ALWAYS}|{ours}" if ours else ALWAYS)
    return sorted(entry.name for entry in folder.iterdir() if not known.fullmatch(entry.name))


def changes(before: dict[str, Any], now: dict[str, Any]) -> dict[str, str]:
    """What differs from one record to the next, also within: key -> "seed: 0 -> 1".

    >>> before = {"seed": 0, "sampler": {"context": 2}, "gone": 1}
    >>> changes(before, {"seed": 0, "sampler": {"context": 3}, "new": "x"})
    {'context': 'context: 2 -> 3', 'gone': 'gone: 1 -> None', 'new': "new: None -> 'x'"}
    """
    found: dict[str, str] = {}
    for key in before | now:
        old, value = before.get(key), now.get(key)
        if isinstance(value, dict) and isinstance(old, dict):
            found |= changes(old, value)
        elif old != value:
            found[key] = f"{key}: {old!r} -> {value!r}"
    return found
