"""Token folders: what the tokenizing scripts write and everything after them reads.

    manifest.json       what the tokens are (Manifest); written first, compared on resume
    shard-00000.npy     uint16 [n, tokens_per_image], a row per readable image, in the data's order
    labels-00000.npy    int32 [n], -1 where the data set has no labels
    hashes-00000.npy    uint64 [n], perceptual hashes (data/duplicates.py)
    groups-00000.npy    hashes of the groups, where there are groups
    shard-00000.json    counts, bad images with their reasons, hashes; written last: the done-marker
    duplicates.json     held-out images that are nearly a training image; made last
    familiarity.json    whether the codec knows such images (codec/familiarity.py)
    bad.jsonl           all bad images of the finished shards: row in the data set, name, reason

Shard `s` covers the images [s * shard_size, (s + 1) * shard_size) of those that were asked for,
whoever tokenizes it. An image is known by its ordinal, its row in the whole data set, which bad
images, without a row of tokens, do not shift. Every file is written beside and renamed.
"""

import functools
import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imagegram.artifact import Artifact
from imagegram.cli import UserError
from imagegram.data.dataset import held_out, sample
from imagegram.files import atomic, read_json, save_array, sha256, write_json
from imagegram.manifest import Manifest

# document separator of Fastgram and infini-gram in a uint16 corpus: never a token
SEPARATOR = 65535
# 0xFEFF: ends an indexed corpus (index/folder.py); in byte order it is right before the separator
TERMINATOR = 65279
MAX_VOCAB = TERMINATOR  # a token is below the terminator
# sequences [n, k], or n of different lengths
Prefixes = NDArray[np.uint16] | Sequence[NDArray[np.uint16]]
MAX_BAD_SHARE = 0.01
MAX_BAD = 100


def too_many_bad(bad: int, images: int) -> bool:
    """Whether more of `images` are bad than both limits: something is wrong with the data.

    >>> too_many_bad(100, 100), too_many_bad(101, 101)
    (False, True)
    >>> too_many_bad(101, 10_100), too_many_bad(102, 10_100)
    (False, True)
    """
    return bad > MAX_BAD and bad > MAX_BAD_SHARE * images


@dataclass(frozen=True)
class Corpus:
    """The n rows of a token folder."""

    tokens: NDArray[np.uint16]  # [n, tokens_per_image]
    labels: NDArray[np.int32]  # [n]
    ordinals: NDArray[np.int64]  # [n], rows in the data set
    held_out: NDArray[np.bool_]  # [n]


def check_tokens(tokens: NDArray[np.integer], vocab_size: int) -> NDArray[np.uint16]:
    """Cast to uint16; UserError on ids outside [0, vocab_size), which would wrap to others."""
    if vocab_size > MAX_VOCAB:
        remain = f"uint16 tokens have {MAX_VOCAB} ids, the rest mark ends"
        raise UserError(f"a vocabulary of {vocab_size} does not fit: {remain}")
    if tokens.size and (tokens.min() < 0 or tokens.max() >= vocab_size):
        found = f"{tokens.min()} to {tokens.max()}"
        raise UserError(f"the codec returned a token outside [0, {vocab_size}): {found}")
    return tokens.astype(np.uint16)


class TokenFolder:
    """A folder of token shards; see the top of this file for its files."""

    def __init__(self, path: Path, manifest: Manifest):
        self.path = path
        self.manifest = manifest
        self.shards = -(-manifest.images // manifest.shard_size)

    @classmethod
    def create(cls, path: Path, manifest: Manifest) -> "TokenFolder":
        """Start or resume a folder; UserError where it holds tokens of something else."""
        check_tokens(np.zeros(0, np.int64), manifest.vocab_size)
        if manifest.images == 0:
            raise UserError(f"the data set {manifest.dataset.name!r} has no images")
        artifact = Artifact(path, "tokens")
        artifact.claim()
        if not (path / "manifest.json").exists():
            artifact.finish(manifest.to_json())
        folder = cls.open(path)
        if changed := folder.manifest.changes(manifest):
            raise UserError(
                f"{path} holds other tokens ({'; '.join(changed.values())}): what is finished "
                "stays and can be indexed; choose another folder with --out for the new ones"
            )
        return folder

    @classmethod
    def open(cls, path: Path) -> "TokenFolder":
        """Open a folder to read; UserError where there is none."""
        file = path / "manifest.json"
        if not file.exists():
            raise UserError(f"no tokens in {path}: run tokenize_fast.py first")
        return cls(path, Manifest.from_json(read_json(file), file))

    def _file(self, kind: str, shard: int) -> Path:
        return self.path / f"{kind}-{shard:05d}.npy"

    def _marker(self, shard: int) -> Path:
        return self.path / f"shard-{shard:05d}.json"

    def range(self, shard: int) -> range:
        """The images that a shard covers, counted among those that were asked for."""
        start = shard * self.manifest.shard_size
        return range(start, min(start + self.manifest.shard_size, self.manifest.images))

    def covered(self, shard: int) -> NDArray[np.int64]:
        """The ordinals of the images that a shard covers, int64 [n]."""
        part = self.range(shard)
        return self.asked[part.start : part.stop]

    @property
    def pictures(self) -> tuple[str, str]:
        """Equal where two folders have the same pictures: the same column of one data set."""
        return self.manifest.fingerprint, self.manifest.image_column

    @functools.cached_property
    def asked(self) -> NDArray[np.int64]:
        """The ordinals of all images that were asked for, ascending, int64 [manifest.images]."""
        m = self.manifest
        return sample(m.available or m.images, m.images, m.sample_seed)

    def problem(self, shard: int, *, hashes: bool = False) -> str | None:
        """What is wrong with a shard, None where it is whole. `hashes`: reads all data for that."""
        try:
            marker = json.loads(self._marker(shard).read_text())
            made = Manifest.from_json(marker["manifest"], self._marker(shard))
            if made.changes(self.manifest):
                return "was made under another manifest"
            rows, sizes = marker["ok"], marker["bytes"]
            if rows + len(marker["bad"]) != len(self.range(shard)):
                return "does not account for every image"
            needed = ["shard", "labels", *["groups"] * bool(self.manifest.group)]
            for kind in dict.fromkeys([*needed, *sizes]):
                shape = (rows, self.manifest.tokens_per_image) if kind == "shard" else (rows,)
                file = self._file(kind, shard)
                whole = file.stat().st_size == sizes[kind]
                if not whole or np.load(file, mmap_mode="r").shape != shape:
                    return f"{file.name} is cut short or too long"
                if hashes and sha256(file) != marker["sha256"][kind]:
                    return f"{file.name} differs from its hash"
        except FileNotFoundError as error:
            return f"{Path(error.filename).name} is missing"
        except (ValueError, KeyError):
            return "is damaged"
        return None

    def pending(self) -> list[int]:
        """Shards still to be tokenized, damaged ones included."""
        return [shard for shard in range(self.shards) if self.problem(shard)]

    def damaged(self) -> dict[int, str]:
        """Shards that have a done-marker and are not whole all the same, with what is wrong."""
        marked = (shard for shard in range(self.shards) if self._marker(shard).exists())
        return {shard: problem for shard in marked if (problem := self.problem(shard))}

    def check_shard(self, shard: int, *, hashes: bool = False) -> None:
        """UserError where a shard is not finished and whole."""
        if problem := self.problem(shard, hashes=hashes):
            remedy = "run the tokenizing script again"
            raise UserError(f"{self.path}: shard {shard} {problem}; {remedy}")

    def _markers(self) -> list[dict[str, Any]]:
        """The done-markers of the finished shards."""
        return [read_json(self._marker(s)) for s in range(self.shards) if not self.problem(s)]

    def images(self) -> int:
        """Images with tokens in the finished shards."""
        return sum(int(marker["ok"]) for marker in self._markers())

    def write(
        self,
        shard: int,
        tokens: NDArray[np.integer],
        labels: NDArray[np.integer],
        bad: dict[int, str],
        seconds: float,
        names: Mapping[int, str] | None = None,
        others: Mapping[str, NDArray[np.uint64]] | None = None,
    ) -> None:
        """Write one shard: `tokens` [n, L] and `labels` [n] of its readable images, `bad` ordinal
        -> reason. `names`: where every bad image lies; `others`: groups [n] and hashes [n]."""
        marker = self._marker(shard)
        marker.unlink(missing_ok=True)
        for left in self.path.glob(f".tmp-*-{shard:05d}.*"):  # by a run that was killed
            left.unlink(missing_ok=True)
        arrays: dict[str, NDArray[Any]] = {
            "shard": check_tokens(tokens, self.manifest.vocab_size),
            "labels": labels.astype(np.int32),
            **(others or {}),
        }
        files = {kind: self._file(kind, shard) for kind in arrays}
        for kind, array in arrays.items():
            save_array(files[kind], array)
        record = {
            "first": int(self.asked[self.range(shard).start]),
            "ok": len(tokens),
            "bad": [[i, reason, (names or {}).get(i, "")] for i, reason in sorted(bad.items())],
            "bytes": {kind: file.stat().st_size for kind, file in files.items()},
            "sha256": {kind: sha256(file) for kind, file in files.items()},
            "seconds": round(seconds, 3),
            "images_per_second": round(len(tokens) / max(seconds, 1e-9), 1),
            "finished": time.strftime("%Y-%m-%d %H:%M:%S"),
            "manifest": self.manifest.to_json(),
        }
        write_json(marker, record)

    def seconds(self) -> float:
        """How long the finished shards took, each when it was made."""
        return sum(float(marker["seconds"]) for marker in self._markers())

    def bad(self) -> dict[int, str]:
        """Unreadable images of the finished shards: ordinal -> reason."""
        every = [one for marker in self._markers() for one in marker["bad"]]
        return {int(ordinal): str(reason) for ordinal, reason, *_ in every}

    def contents(self) -> str:
        """A hash of what the folder holds, wherever it lies and whenever it was made: tokens and
        labels of the finished shards, the unreadable images, and the manifest without the path of
        the data set (its fingerprint stays)."""
        manifest = self.manifest.to_json()
        del manifest["dataset"]
        shards = [[m["sha256"], [bad[0] for bad in m["bad"]]] for m in self._markers()]
        return hashlib.sha256(json.dumps([manifest, shards]).encode()).hexdigest()[:16]

    def write_bad(self) -> int:
        """Write bad.jsonl; returns the number of bad images."""
        lines = [
            json.dumps({"ordinal": ordinal, "name": name, "reason": reason}) + "\n"
            for marker in self._markers()
            for ordinal, reason, name in marker["bad"]
        ]
        file, text = self.path / "bad.jsonl", "".join(lines)
        # a finished folder may be read-only
        if not file.exists() or file.read_text() != text:
            with atomic(file) as temporary:
                temporary.write_text(text)
        return len(lines)

    def check_readable(self) -> None:
        """UserError where more images are unreadable than a sound data set has.

        Asked before and after every run, and by the index: a refusal outlives its process.
        """
        bad = len(self.bad())
        total = bad + self.images()
        names = f"{self.path}/bad.jsonl names them"
        remedy = f"{names}. Mend or remove them, then tokenize into another folder"
        if bad == total == self.manifest.images:
            raise UserError(f"none of the {bad} images can be read: {remedy}")
        if too_many_bad(bad, total):
            raise UserError(f"{bad} of {total} images cannot be read: {remedy}")

    def ordinals(self, shard: int) -> NDArray[np.int64]:
        """The row in the data set of every image of a finished shard."""
        bad = [ordinal for ordinal, *_ in read_json(self._marker(shard))["bad"]]
        return np.setdiff1d(self.covered(shard), bad, assume_unique=True)

    def held_out(self, shard: int) -> NDArray[np.bool_]:
        """Which rows of a finished shard are held out of the index."""
        groups = np.load(self._file("groups", shard)) if self.manifest.group else None
        return held_out(self.ordinals(shard), self.manifest.held_out_share, groups)

    def hashes(self, shard: int) -> NDArray[np.uint64] | None:
        """The perceptual hash of every row of a finished shard; None in one of older versions."""
        file = self._file("hashes", shard)
        return np.load(file) if file.exists() else None

    def read(self, shard: int) -> tuple[NDArray[np.uint16], NDArray[np.int32]]:
        """Tokens [n, L], memory-mapped, and labels [n] of a finished shard."""
        tokens = np.load(self._file("shard", shard), mmap_mode="r")
        return tokens, np.load(self._file("labels", shard))

    def load(self) -> Corpus:
        """All rows; those of a single shard stay on disk. UserError where a shard is missing."""
        shards = range(self.shards)
        for shard in shards:
            self.check_shard(shard)
        tokens, labels = zip(*map(self.read, shards), strict=True)
        return Corpus(
            tokens=tokens[0] if len(tokens) == 1 else np.concatenate(tokens),
            labels=np.concatenate(labels),
            ordinals=np.concatenate([self.ordinals(s) for s in shards]),
            held_out=np.concatenate([self.held_out(s) for s in shards]),
        )
