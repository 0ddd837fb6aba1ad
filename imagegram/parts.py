"""What was drawn and decoded from one seed, kept for whichever process puts several seeds together."""

import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imagegram.files import atomic

FILES = "seed-*.npz"


def part_file(folder: Path, seed: int) -> Path:
    """Where the part of a seed lies, of the run in `folder`."""
    return folder / FILES.replace("*", str(seed))


@dataclass(frozen=True)
class Part:
    """n sequences, of which the first m are decoded."""

    tokens: NDArray[np.uint16]  # [n, k]
    sources: NDArray[np.int64]  # [n, k, 2]
    given: NDArray[np.int64]  # [n], the held-out images that gave their prompts; [0] without prompts
    noises: NDArray[np.int64]  # [m], their seeds
    images: NDArray[np.uint8]  # [m, 3, S, S]

    def save(self, file: Path, asked: dict[str, Any]) -> None:
        """Write it to `file`, at once or not at all, with all that it depends on."""
        with atomic(file) as temporary, temporary.open("wb") as f:
            np.savez(f, asked=np.array(json.dumps(asked)), **vars(self))

    @classmethod
    def load(cls, file: Path, asked: dict[str, Any]) -> "Part | None":
        """What `save` wrote; None where nothing is there, or what was not drawn as `asked`."""
        try:
            with np.load(file) as found:
                if json.loads(str(found["asked"])) != asked:
                    return None
                return cls(**{field.name: found[field.name] for field in fields(cls)})
        except (FileNotFoundError, zipfile.BadZipFile, ValueError, KeyError):
            return None


def joined(parts: Sequence[Part]) -> Part:
    """Several parts as one, in their order: first the decoded sequences of each, then the others."""
    decoded = np.concatenate([np.arange(len(part.tokens)) < len(part.noises) for part in parts])
    order = np.argsort(~decoded, kind="stable")
    every = {field.name: np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(Part)}
    for name in ("tokens", "sources", "given"):
        if len(every[name]):
            every[name] = every[name][order]
    return Part(**every)
