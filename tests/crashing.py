"""Tokenizing that is killed or runs out of room on purpose; test_faults.py runs this in a process of its own.

python -m tests.crashing kills FOLDER               loop: two processes, SIGKILLed at random times until both finish
                                                    marker: SIGKILLed between the data of shard 2 and its marker
unshare -rm python -m tests.crashing room FOLDER    with next to no shared memory, on a disk that fills up
"""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from imagegram import shards, tokenizing
from imagegram.codec import Codec
from imagegram.common import UserError, die_with_parent
from tests.fake_codec import FakeCodec

JOB: dict[str, Any] = {"dataset": "shapes", "images": 200, "shard_size": 10, "batch_size": 5, "workers": 0}


def start(out: Path, rank: int, world_size: int) -> int:
    """One tokenizing process, forked: importing everything again would take longer than the job. Returns its id."""
    parent = os.getpid()
    if child := os.fork():
        return child
    die_with_parent(parent)
    tokenizing.tokenize_dataset(out=out, rank=rank, world_size=world_size, **JOB)
    os._exit(0)


def loop(out: Path) -> None:
    kills = 0
    for attempt in range(200):
        children = [start(out, rank, 2) for rank in (0, 1)]
        deadline = time.monotonic() + random.uniform(0, 0.05 + 0.03 * attempt)
        exits: dict[int, int] = {}
        while len(exits) < 2:
            if time.monotonic() > deadline:
                for child in set(children) - set(exits):
                    os.kill(child, signal.SIGKILL)
            for child in set(children) - set(exits):
                done, status = os.waitpid(child, os.WNOHANG)
                if done:
                    exits[child] = status
            time.sleep(0.001)
        if not any(exits.values()):
            break
        kills += 1
    print(f"kills: {kills}")


def marker(out: Path) -> None:
    write = shards.write_json

    def dies(path: Path, data: object) -> None:
        if path.name == "shard-00002.json":
            os.kill(os.getpid(), signal.SIGKILL)
        write(path, data)

    shards.write_json = dies
    _, status = os.waitpid(start(out, 0, 1), 0)
    shards.write_json = write
    print(f"signal: {os.WTERMSIG(status)}")
    print(f"data: {(out / 'shard-00002.npy').exists()}")
    print(f"marker: {(out / 'shard-00002.json').exists()}")
    os.waitpid(start(out, 0, 1), 0)


def room(out: Path) -> None:
    out.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", "/dev/shm"], check=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=100k", "none", str(out)], check=True)
    job = JOB | {"workers": 2}
    try:  # passes the check of free space: a file system adds more than the check can know
        tokenizing.tokenize_dataset(out=out, **job)
    except UserError as error:
        print(f"stopped: {error}")
    folder = shards.TokenFolder.open(out)
    print(f"finished: {folder.shards - len(folder.pending())}")
    print(f"left: {[file.name for file in out.glob('.tmp-*')]} {folder.damaged()}")
    subprocess.run(["mount", "-o", "remount,size=2m", str(out)], check=True)
    tokenizing.tokenize_dataset(out=out, **job)
    copy = out.with_name("copy")  # what is mounted here goes with this process
    copy.mkdir()
    for file in out.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())


def fake(name: str = "", revision: str = "") -> Codec:
    return FakeCodec()


if __name__ == "__main__":
    tokenizing.load_codec = fake
    mode, target = sys.argv[1], Path(sys.argv[2])
    if mode == "room":
        room(target)
    else:
        marker(target / "marker")
        loop(target / "loop")
