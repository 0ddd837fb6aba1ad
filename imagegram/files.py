"""Files that are never half written; JSON, hashes, and the lock of a run on its folder."""

import contextlib
import errno
import fcntl
import hashlib
import json
import math
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imagegram.cli import UserError

# what a lock that another process holds gives (POSIX leaves open which)
HELD = (errno.EACCES, errno.EAGAIN)


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary sibling, which is flushed to disk and renamed to `path`, on errors removed.

    The file has the permissions that the umask gives, whatever wrote it (safetensors makes files of
    mode 0600). UserError where it cannot be written.
    """
    temporary = path.with_name(f".tmp-{os.getpid()}-{path.name}")
    try:
        temporary.touch()
        mode = temporary.stat().st_mode
        yield temporary
        temporary.chmod(mode)
        with temporary.open("rb") as f:
            os.fsync(f.fileno())
        temporary.replace(path)
    except OSError as error:
        why, remedy = str(error), "fix that"
        if error.errno == errno.ENOENT:
            remedy = f"put {path.parent} back"
        elif error.errno in (errno.ENOSPC, errno.EDQUOT, None):  # None: NumPy's of a full disk
            why += f"; {shutil.disk_usage(path.parent).free / 1e6:.1f} MB are free"
            remedy = "free some space"
        raise UserError(
            f"cannot write {path} ({why}): {remedy}, then run the same command again"
        ) from None
    finally:
        temporary.unlink(missing_ok=True)


def nearest_existing(path: Path) -> Path:
    """The path itself, or the nearest folder above it that exists."""
    return path if path.exists() else nearest_existing(path.absolute().parent)


def require_space(folder: Path, bytes_needed: float, remedy: str = "free some space first") -> None:
    """UserError where the disk of `folder`, which need not exist yet, has less room than that."""
    free = shutil.disk_usage(nearest_existing(folder)).free
    if free < bytes_needed:
        # rounded apart: never two equal numbers
        more, less = math.ceil(bytes_needed / 1e5) / 10, free // 1e5 / 10
        raise UserError(f"{folder} needs {more:,.1f} MB, {less:,.1f} MB are free: {remedy}")


def write_json(path: Path, data: Any) -> None:
    """Write JSON atomically, indented, keys in the order given."""
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(data, indent=1) + "\n")


def save_array(path: Path, array: NDArray[Any]) -> None:
    """Write an array as .npy, atomically."""
    with atomic(path) as temporary, temporary.open("wb") as f:
        np.save(f, array)


def read_json(path: Path) -> Any:
    """Read JSON; UserError where the file is missing or damaged."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(f"{path} is missing") from None
    except ValueError as error:
        raise UserError(
            f"{path} is not valid JSON ({error}): delete it and run the step again"
        ) from None


def sha256(path: Path) -> str:
    """Hex digest of a file."""
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


@contextlib.contextmanager
def run_lock(folder: Path, file: Path) -> Iterator[None]:
    """Hold `folder` for this process by a lock on `file`; UserError names who holds it already.

    A file system without locks (some network mounts) is used without one, and a line says so. The
    kernel drops the lock with its holder, so that a killed run leaves nothing to clean up. (A
    record lock, not flock: loader processes would inherit that, and outlive their parent a while.)
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    if not os.access(file.parent, os.W_OK):  # who cannot write there needs no lock to read
        yield
        return
    with file.open("a+") as f:
        try:
            fcntl.lockf(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in HELD:
                f.seek(0)
                holder = f.read().strip() or "unknown"
                raise UserError(
                    f"{folder} is in use by process {holder}: wait for it or choose another folder"
                ) from None
            what = f"{folder} is on a file system without locks ({error.strerror})"
            remedy = "see to it that no second run writes there"
            print(f"warning: {what}: {remedy}", file=sys.stderr)
        f.truncate(0)
        f.write(str(os.getpid()))
        f.flush()
        yield


@contextlib.contextmanager
def turn(folder: Path) -> Iterator[None]:
    """Hold `folder` for this process, after whichever has it; without locks at once."""
    with (folder / ".lock").open("a") as f:
        with contextlib.suppress(OSError):
            fcntl.lockf(f, fcntl.LOCK_EX)
        yield


def is_held(file: Path) -> bool:
    """Whether another process holds the run lock on this file."""
    try:
        with file.open("r+") as f:
            os.lockf(f.fileno(), os.F_TEST, 0)
    except FileNotFoundError:
        return False
    except OSError as error:  # without locks nothing is known to be held
        return error.errno in HELD
    return False
