"""The builders of a suffix table: Fastgram's tg_build_index, and libdivsufsort.

Both write the same bytes (table.py says which), and every table is proved right afterwards.
"""

import os
import shutil
import subprocess
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from imagegram.cli import UserError
from imagegram.files import atomic
from imagegram.index.table import CHUNK, pointer_width
from imagegram.machine import die_with_parent

# Bytes of memory a token, corpus included; divsufsort takes more from 2^30 tokens on.
BUILDERS = {"tg_build_index": 32, "divsufsort": 10}


def build_table(source: Path, table: Path, builder: str, *, progress: bool) -> str:
    """Build one shard's table as asked for; returns the name of the builder that did it."""
    tokens = np.memmap(source / "tokenized.0", np.dtype("<u2"), "c")  # pydivsufsort wants to write
    tool = find_tg_build_index() if builder != "divsufsort" else None
    if builder == "tg_build_index" and not tool:
        remedy = "set TG_BUILD_INDEX, or use --builder divsufsort"
        raise UserError(f"tg_build_index is not found: {remedy}")
    if tool and (builder == "tg_build_index" or suits_fastgram(len(tokens))):
        build_with_fastgram(tool, source, table)
        return f"tg_build_index ({tool})"
    build_with_divsufsort(tokens, table, progress=progress)
    return f"pydivsufsort {version('pydivsufsort')}"


def find_tg_build_index() -> Path | None:
    """Fastgram's indexer: $TG_BUILD_INDEX, on the PATH, or in a checkout beside the scripts."""
    if named := os.environ.get("TG_BUILD_INDEX"):
        if not os.access(named, os.X_OK):
            raise UserError(f"TG_BUILD_INDEX={named} is not a program")
        return Path(named)
    found = shutil.which("tg_build_index") or shutil.which("Fastgram/build/tg_build_index")
    return Path(found) if found else None


def suits_fastgram(tokens: int) -> bool:
    """Whether `tg_build_index` writes the right table for a corpus of `tokens`.

    It takes its pointer width from the last suffix in sorted order, which the ending of folder.py
    makes the third last in position: where two tokens decide the width, its table is corrupt.

    >>> [tokens for tokens in range(100, 200) if not suits_fastgram(tokens)]
    [129, 130]
    """
    return pointer_width(tokens) == pointer_width(tokens - 2)


def build_with_fastgram(tool: Path, source: Path, table: Path) -> None:
    """Run `tg_build_index` on `source` (tokenized.0, offset.0) and move its table to `table`."""
    tokens = (source / "tokenized.0").stat().st_size // 2
    if not suits_fastgram(tokens):
        said = f"tg_build_index cannot index exactly {tokens} tokens correctly"
        raise UserError(f"{said}: use --builder divsufsort")
    out = table.with_name(f"{table.name}-tg_build_index")
    shutil.rmtree(out, ignore_errors=True)
    command = [str(tool), f"{source}/", f"{out}/", "2", "4", "table_only"]
    bound = partial(die_with_parent, os.getpid())
    done = subprocess.run(command, capture_output=True, text=True, preexec_fn=bound)
    if done.returncode:
        said = done.stderr.strip()[-300:]
        raise UserError(f"{' '.join(command)} failed ({done.returncode}): {said}")
    (out / "table.0").replace(table)
    shutil.rmtree(out)


def build_with_divsufsort(
    tokens: NDArray[np.uint16], table: Path, *, progress: bool = False
) -> None:
    """Write the table with libdivsufsort (Mori, 2006), through pydivsufsort and on one core.

    It sorts the suffixes of the bytes, of which the even ones begin at tokens: 10 bytes of memory a
    token, 18 where the shard has more than 2^30 tokens. Linear in practice, whatever repeats.
    """
    from pydivsufsort import divsufsort

    # One thread: a process that was forked after OpenMP made threads would wait for them for ever.
    with threadpool_limits(limits=1, user_api="openmp"):
        suffixes = divsufsort(tokens.view(np.uint8))
    width = pointer_width(len(tokens))
    size = len(suffixes)
    bar = tqdm(None, "writing the table", size, unit_scale=True, disable=not progress, delay=2)
    with atomic(table) as temporary, temporary.open("wb") as f, bar:
        for start in range(0, size, 2 * CHUNK):
            offsets = suffixes[start : start + 2 * CHUNK]
            entries = offsets[offsets & 1 == 0].astype("<u8")
            np.ascontiguousarray(entries.view(np.uint8).reshape(-1, 8)[:, :width]).tofile(f)
            bar.update(len(offsets))
