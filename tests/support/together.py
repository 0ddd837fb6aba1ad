"""What can go wrong while two processes of one torchrun tokenize; test_faults.py runs

    [unshare -rm] torchrun --standalone --nproc-per-node=2 -m tests.support.together FOLDER

Every process goes through the same scenarios, each in a folder of its own; an assertion that fails ends them all.
"""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from imagegram import tokenizing
from imagegram import tokens as shards
from imagegram.cli import UserError
from imagegram.codec import Codec
from imagegram.codec.flextok import oom_as_user_error
from imagegram.data.scenes import scene
from imagegram.files import run_lock
from imagegram.machine import die_with_parent
from imagegram.tokens import TokenFolder
from tests.conftest import truncated_tar
from tests.support.fake_codec import JOB, FakeCodec
from tests.support.tokenize import tokenize
from tests.test_tokenizing import contents

RANK, WORLD = (int(os.environ.get(name, 0)) for name in ("RANK", "WORLD_SIZE"))


def use(codec: Codec) -> None:
    """Have the scripts find this codec, whatever they ask for."""

    def load(name: str = "tiny", revision: str = "") -> Codec:
        return codec

    tokenizing.load_codec = load


def run(out: Path, **changes: Any) -> TokenFolder:
    """This process's share of a job, with a codec that can be changed."""
    use(changes.pop("codec", FakeCodec()))
    return tokenize(out=out, rank=RANK, world_size=WORLD, **JOB | changes)


def error_of(out: Path, **changes: Any) -> str:
    """What the job ends with."""
    try:
        run(out, **changes)
    except UserError as error:
        return str(error)
    raise AssertionError("the job ended well")


def meet(folder: Path, point: str) -> None:
    """Wait until every process is here."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{point}-{RANK}").touch()
    deadline = time.monotonic() + 60
    while len(list(folder.glob(f"{point}-*"))) < WORLD:
        assert time.monotonic() < deadline, f"the other process is not at {point}"
        time.sleep(0.01)


def alone(out: Path, **changes: Any) -> dict[str, bytes]:
    """What one process that nothing happens to leaves; every process makes its own."""
    use(FakeCodec())
    tokenize(out=out / f"alone-{RANK}", **JOB | changes)
    return contents(out / f"alone-{RANK}")


def child(work: Callable[[], object]) -> int:
    """A copy of this process that does `work`; returns its id."""
    parent = os.getpid()
    if copy := os.fork():
        return copy
    die_with_parent(parent)
    # tqdm's lock is shared by all copies: one that is killed while it holds the lock would stop every later one.
    tqdm.set_lock(threading.RLock())
    work()
    os._exit(0)


def killed_between_data_and_marker(folder: Path) -> None:
    def dies(path: Path, data: object) -> None:
        if path.name == f"shard-0000{4 + RANK}.json":
            os.kill(os.getpid(), signal.SIGKILL)
        write(path, data)

    write, shards.write_json = shards.write_json, dies
    _, status = os.waitpid(child(lambda: run(folder / "out")), 0)
    shards.write_json = write
    assert os.WTERMSIG(status) == signal.SIGKILL
    assert (folder / "out" / f"shard-0000{4 + RANK}.npy").exists()
    assert not (folder / "out" / f"shard-0000{4 + RANK}.json").exists()
    meet(folder, "killed")
    run(folder / "out")
    meet(folder, "done")
    assert contents(folder / "out") == alone(folder)


def killed_at_random_times(folder: Path) -> None:
    rng, longest, kills = random.Random(RANK), 0.02, 0
    while True:
        copy = child(lambda: run(folder / "out"))
        time.sleep(rng.uniform(0, longest))
        os.kill(copy, signal.SIGKILL)
        if os.waitpid(copy, 0)[1] == 0:
            break
        longest, kills = 1.3 * longest, kills + 1
    assert kills > 2
    meet(folder, "done")
    run(folder / "out")
    meet(folder, "whole")
    assert contents(folder / "out") == alone(folder)


def disk_full(folder: Path) -> None:
    out = folder / "out"
    if RANK == 0:
        out.mkdir(parents=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=100k", "none", str(out)], check=True)
    meet(folder, "mounted")
    error = error_of(out)
    assert "cannot write" in error
    assert "free some space, then run the same command again" in error
    meet(folder, "full")
    assert not list(out.glob(".tmp-*-shard-*"))
    assert 0 < len(TokenFolder.open(out).pending()) < 20
    meet(folder, "seen")
    if RANK == 0:
        subprocess.run(["mount", "-o", "remount,size=2m", str(out)], check=True)
    meet(folder, "room")
    run(out)
    meet(folder, "done")
    assert contents(out) == alone(folder)


def shared_memory_full(folder: Path) -> None:
    def limit(size: str) -> None:
        if RANK == 0:
            subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", "/dev/shm"], check=True)
        meet(folder, size)

    limit("4k")
    started = time.monotonic()
    assert error_of(folder / "out", workers=2).startswith("shared memory (/dev/shm) is full")
    assert time.monotonic() - started < 60
    meet(folder, "full")
    limit("512k")  # images do not travel through it: little is enough
    run(folder / "out", workers=2)
    meet(folder, "done")
    assert contents(folder / "out") == alone(folder)


def pictures(folder: Path) -> str:
    """A folder of pictures in unusual modes, of which the fifth to eighth, a shard of the second process, are bad."""
    data = folder / "pictures"
    if RANK == 0:
        data.mkdir(parents=True)
        for i in range(16):
            image = Image.fromarray(scene(2, i)[0])
            modes = (image, image.convert("CMYK"), image.convert("LA"), image.convert("P"), image.convert("I;16"))
            exif = Image.Exif()
            exif[0x0112] = 6  # turned
            kind = "jpg" if i % 5 == 1 else "png"
            modes[i % 5].save(data / f"{i:02d}.{kind}", exif=exif if i % 5 < 2 else None)
        (data / "04.png").write_bytes(b"")
        (data / "05.png").write_text("<html></html>")
        (data / "06.jpg").write_bytes((data / "01.jpg").read_bytes()[:300])
        Image.new("1", (20_000, 20_000)).save(data / "07.png")
    meet(folder, "pictures")
    return str(data)


def bad_pictures(folder: Path) -> None:
    job: dict[str, Any] = {"dataset": pictures(folder), "images": 0, "shard_size": 4, "batch_size": 2}
    run(folder / "out", **job)
    meet(folder, "done")
    bad = TokenFolder.open(folder / "out").bad()
    assert sorted(bad) == [4, 5, 6, 7]
    reasons = [bad[i].split(":")[0] for i in range(4, 8)]
    assert reasons == ["UnidentifiedImageError", "UnidentifiedImageError", "OSError", "DecompressionBombError"]
    run(folder / "out", **job)  # the first process had no reason to wait for the second one's bad images
    meet(folder, "again")
    assert contents(folder / "out") == alone(folder, **job)


def too_many_bad(folder: Path) -> None:
    data = folder / "pictures"
    if RANK == 0:
        data.mkdir(parents=True)
        for i in range(400):
            Image.new("L", (32, 32), i % 200).save(data / f"{i:03d}.png")
            if i >= 40:
                (data / f"{i:03d}.png").write_bytes(b"")
    meet(folder, "pictures")
    error = error_of(folder / "out", dataset=str(data), images=0)
    assert "images cannot be read: " in error
    assert "bad.jsonl" in error


def empty(folder: Path) -> None:
    if RANK == 0:
        features = datasets.Features({"img": datasets.Image(), "label": datasets.ClassLabel(names=["a"])})
        datasets.Dataset.from_dict({"img": [], "label": []}, features=features).save_to_disk(folder / "empty")
    meet(folder, "saved")
    assert "has no images" in error_of(folder / "out", dataset=str(folder / "empty"), images=0)


class Wrong(FakeCodec):
    """Returns one impossible token."""

    def __init__(self, token: int):
        super().__init__()
        self.token = token

    def encode(self, images: torch.Tensor) -> Any:
        tokens = super().encode(images).astype(np.int64)
        tokens[-1, 2] = self.token
        return tokens


def impossible_tokens(folder: Path) -> None:
    for i, token in enumerate((-1, 500, 65535, 65536 + 3)):
        assert "outside [0, 500)" in error_of(folder / f"out{i}", codec=Wrong(token))
        assert not list((folder / f"out{i}").glob("shard-*"))


def two_runs(folder: Path) -> None:
    for holder in (0, 1):
        if holder == RANK:
            with run_lock(folder / "out", f".lock-{1 - RANK}"):
                (folder / f"pid-{holder}").write_text(str(os.getpid()))
                meet(folder, f"held by {holder}")
                meet(folder, f"tried against {holder}")
        else:
            meet(folder, f"held by {holder}")
            held = f"is in use by process {(folder / f'pid-{holder}').read_text()}: wait for it"
            assert held in error_of(folder / "out")
            meet(folder, f"tried against {holder}")
        meet(folder, f"released by {holder}")
    run(folder / "out")  # what the locks of ended runs left is no hindrance
    meet(folder, "done")
    assert contents(folder / "out") == alone(folder)


def something_else(folder: Path) -> None:
    run(folder / "out")
    meet(folder, "done")
    before = contents(folder / "out")
    other = FakeCodec()
    other.name = "other"
    other.revision = "of the other"  # the revision says what a codec is: under another name alone it is the same
    revised = FakeCodec()
    revised.revision = "2"
    larger = FakeCodec()
    larger.image_size = 64
    for changes, message in (
        ({"codec": other}, "codec: 'fake' -> 'other'"),
        ({"codec": revised}, "revision: '1' -> '2'"),
        ({"codec": larger}, "image_size: 32 -> 64"),
        ({"images": 30}, "images: 200 -> 30"),
        ({"dataset": "digits"}, "dataset: 'shapes' -> 'digits'"),
    ):
        assert message in error_of(folder / "out", **changes)
    assert contents(folder / "out") == before


class Kills(FakeCodec):
    """Kills the processes that load images."""

    def encode(self, images: torch.Tensor) -> Any:
        for loader in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split():
            os.kill(int(loader), signal.SIGKILL)
        return super().encode(images)


def killed_loader(folder: Path) -> None:
    started = time.monotonic()
    error = error_of(folder / "out", codec=Kills(), workers=1)
    assert "a process that loads images died" in error
    assert "the same command goes on" in error
    assert time.monotonic() - started < 60
    meet(folder, "died")
    run(folder / "out")
    meet(folder, "done")
    assert contents(folder / "out") == alone(folder)


class Large(FakeCodec):
    """Needs more memory than there is for more than two images."""

    def encode(self, images: torch.Tensor) -> Any:
        with oom_as_user_error(len(images), "try --batch-size {}"):
            if len(images) > 2:
                raise torch.OutOfMemoryError("CUDA out of memory")
        return super().encode(images)


def out_of_memory(folder: Path) -> None:
    assert error_of(folder / "out", codec=Large()) == "out of memory with a batch of 5: try --batch-size 2"
    assert not list((folder / "out").glob("shard-*"))
    meet(folder, "stopped")
    run(folder / "out", codec=Large(), batch_size=2)
    meet(folder, "done")
    assert contents(folder / "out") == alone(folder)


def truncated(folder: Path) -> None:
    tar = folder / "a.tar"
    if RANK == 0:
        truncated_tar(tar)
    meet(folder, "written")
    run(folder / "out", dataset=str(tar), images=0, shard_size=2)
    meet(folder, "done")
    assert TokenFolder.open(folder / "out").images() == 7


SCENARIOS = (
    killed_between_data_and_marker,
    killed_at_random_times,
    bad_pictures,
    too_many_bad,
    empty,
    impossible_tokens,
    two_runs,
    something_else,
    killed_loader,
    out_of_memory,
    truncated,
)
MOUNTING = (disk_full, shared_memory_full)


if __name__ == "__main__":
    target, mounts = Path(sys.argv[1]), sys.argv[2:] == ["mounts"]
    for scenario in (*SCENARIOS, *MOUNTING) if mounts else SCENARIOS:
        begun = time.monotonic()
        meet(target / scenario.__name__, "begun")
        scenario(target / scenario.__name__)
        print(f"{RANK} {scenario.__name__} {time.monotonic() - begun:.1f} s", flush=True)
