"""Building the index: this project's command with every builder, against running Fastgram's tg_build_index by hand.

    python benchmarks/bench_index.py                                      # about half an hour and 15 GB of disk
    python benchmarks/bench_index.py --images 10000 50000 --rounds 3

The corpora are 256 tokens an image, Zipf-like over 64,000 ids, 5 % of the images copies of others. Timed is the whole
command: for `tg_build_index (tool alone)` that program on a finished input, with no check of what it wrote; for all
others `python -m imagegram.index build`, which starts Python, reads and hashes the tokens, writes the input, sorts,
proves the table and hashes it. Peak memory is that of the largest process, mapped files included. Every table has to
have the same bytes. Prints a Markdown table of medians.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.corpora import token_folder
from imagegram.cli import UserError, run_script
from imagegram.files import sha256
from imagegram.index.builders import find_tg_build_index

LENGTH = 256
VOCAB = 64_000
COPIES = 0.05
TOOL = "tg_build_index (tool alone)"


@dataclass
class Config:
    images: tuple[int, ...] = (10_000, 50_000, 225_000, 1_280_000)
    rounds: int = 3  # of which the median is given; one from 1,000,000 images on
    folder: Path = Path(tempfile.gettempdir()) / "bench_index"
    tool_limit: int = 300_000  # images up to which tg_build_index is run


def write_tokens(path: Path, images: int) -> None:
    """A token folder of random images."""
    folder = token_folder(path, "zipf", images)
    rng = np.random.default_rng(images)
    for shard in folder.pending():
        n = len(folder.range(shard))
        tokens = (VOCAB ** rng.random((n, LENGTH), np.float32)).astype(np.int32) - 1  # log-uniform: Zipf, exponent 1
        copies = rng.random(n) < COPIES
        tokens[copies] = tokens[rng.integers(0, n, copies.sum())]
        folder.write(shard, np.clip(tokens, 0, VOCAB - 1), np.zeros(n, int), {}, 1.0)


def measure(command: list[str]) -> tuple[float, float, int]:
    """Seconds, seconds of all cores together, and peak bytes of a command."""
    started = time.perf_counter()
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        if status:
            errors.seek(0)
            raise UserError(f"{' '.join(command)} failed: {errors.read().decode()[-500:]}")
    return seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024


def main(config: Config) -> None:
    tool = find_tg_build_index()
    builders = ["divsufsort", *["tg_build_index"] * bool(tool)]
    print(f"{os.cpu_count()} cores; medians of {config.rounds} rounds, one round from 1,000,000 images on\n")
    print("| images | builder | seconds | of which proof | core-seconds | bytes a token | ratio to the tool alone |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for images in config.images:
        tokens, source, out = (config.folder / name for name in ("tokens", "input", "index"))
        shutil.rmtree(config.folder, ignore_errors=True)
        write_tokens(tokens, images)
        build = [sys.executable, "-m", "imagegram.index", "build"]
        build += ["--tokens", str(tokens), "--index-input", str(source)]
        rows: dict[str, list[tuple[float, float, int, float]]] = {}
        tables = set[str]()
        for _ in range(1 if images >= 1_000_000 else config.rounds):
            for builder in builders:
                if builder == "tg_build_index" and images > config.tool_limit:
                    continue
                shutil.rmtree(out, ignore_errors=True)
                cost = measure([*build, "--out", str(out), "--builder", builder])
                proof = json.loads((out / "index.json").read_text())["verify_seconds"]
                rows.setdefault(builder, []).append((*cost, proof))
                tables.add(sha256(out / "table.0"))
            if tool and images <= config.tool_limit:
                shutil.rmtree(out)
                cost = measure([str(tool), f"{source}/", f"{out}/", "2", "4", "full"])
                rows.setdefault(TOOL, []).append((*cost, 0.0))
                tables.add(sha256(out / "table.0"))
        if len(tables) > 1:
            raise UserError(f"{images} images: the builders wrote different tables")
        count = images * (LENGTH + 1) + 3
        for builder, runs in rows.items():
            seconds, work, peak, proof = (median(column) for column in zip(*runs, strict=True))
            checked = f"{proof:.1f}" if proof else "none"
            ratio = f"{median(r[0] for r in rows[TOOL]) / seconds:.1f}x" if TOOL in rows else "not run"
            print(
                f"| {images:,} | {builder} | {seconds:.1f} | {checked} | {work:.1f} | {peak / count:.1f} | {ratio} |",
                flush=True,
            )
    shutil.rmtree(config.folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(run_script(main, Config, __doc__))
