"""What goes wrong while two processes tokenize ends in a line, or in the bytes of a quiet run."""

import os
import random
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from imagegram import artifact
from imagegram import tokens as shards
from imagegram.artifact import Artifact
from imagegram.data.scenes import scene
from imagegram.tokens import TokenFolder
from tests.support.fake_codec import FakeCodec
from tests.support.kills import fork
from tests.support.two_processes import Process, in_two_processes


def killed_between_data_and_marker(process: Process) -> None:
    shard = f"shard-0000{4 + process.rank}"

    def dies(path: Path, data: object) -> None:
        if path.name == f"{shard}.json":
            os.kill(os.getpid(), signal.SIGKILL)
        write(path, data)

    write, shards.write_json = shards.write_json, dies
    _, status = os.waitpid(fork(process.run, process.folder / "error"), 0)
    shards.write_json = write
    assert os.WTERMSIG(status) == signal.SIGKILL
    assert (process.out / f"{shard}.npy").exists()
    assert not (process.out / f"{shard}.json").exists()
    process.barrier("killed")
    process.finish()


def killed_at_random_times(process: Process) -> None:
    rng, longest, kills = random.Random(process.rank), 0.02, 0
    while True:
        copy = fork(process.run, process.folder / "error")
        time.sleep(rng.uniform(0, longest))
        os.kill(copy, signal.SIGKILL)
        if os.waitpid(copy, 0)[1] == 0:
            break
        longest, kills = 1.3 * longest, kills + 1
    assert kills > 2
    process.barrier("ended")
    process.finish()


def with_unusual_and_bad_pictures(process: Process) -> None:
    """The fifth to eighth, a shard of the second process, are bad."""
    data = process.folder / "pictures"
    if process.rank == 0:
        data.mkdir()
        for i in range(16):
            mode = ("RGB", "CMYK", "LA", "P", "I;16")[i % 5]
            exif = Image.Exif()
            exif[0x0112] = 6  # turned
            file = data / f"{i:02d}.{'jpg' if mode == 'CMYK' else 'png'}"
            image = Image.fromarray(scene(2, i)[0]).convert(mode)
            image.save(file, exif=exif if mode in ("RGB", "CMYK") else None)
        (data / "04.png").write_bytes(b"")
        (data / "05.png").write_text("<html></html>")
        (data / "06.jpg").write_bytes((data / "01.jpg").read_bytes()[:300])
        Image.new("1", (20_000, 20_000)).save(data / "07.png")
    process.barrier("pictures")
    job: dict[str, Any] = {"dataset": str(data), "images": 0, "shard_size": 4, "batch_size": 2}
    process.run(**job)
    process.barrier("once")
    bad = TokenFolder.open(process.out).bad()
    assert {i: reason.split(":")[0] for i, reason in bad.items()} == {
        4: "UnidentifiedImageError",
        5: "UnidentifiedImageError",
        6: "OSError",
        7: "DecompressionBombError",
    }
    process.finish(**job)  # the first process had no reason to wait for the second one's bad images


def in_a_folder_in_use(process: Process) -> None:
    for holder in (0, 1):
        pid = process.folder / f"pid-{holder}"
        if holder == process.rank:
            with Artifact(process.out, "tokens").lock(1 - holder):
                pid.write_text(str(os.getpid()))
                process.barrier(f"held by {holder}")
                process.barrier(f"tried against {holder}")
        else:
            process.barrier(f"held by {holder}")
            assert f"is in use by process {pid.read_text()}: wait for it" in process.error()
            process.barrier(f"tried against {holder}")
        process.barrier(f"released by {holder}")
    process.finish()  # what the locks of ended runs left is no hindrance


class Kills(FakeCodec):
    """Kills the processes that load images."""

    def encode(self, images: torch.Tensor) -> Any:
        for loader in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split():
            os.kill(int(loader), signal.SIGKILL)
        return super().encode(images)


def with_a_killed_loader(process: Process) -> None:
    started = time.monotonic()
    error = process.error(codec=Kills(), workers=1)
    assert "a process that loads images died" in error
    assert "the same command goes on" in error
    assert time.monotonic() - started < 60
    process.barrier("died")
    process.finish()


def mount(process: Process, options: str, place: Path) -> None:
    """A file system of few bytes in memory, made by the first process."""
    if process.rank == 0:
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", str(place)], check=True)
    process.barrier(options)


def on_a_full_disk(process: Process) -> None:
    process.out.mkdir(exist_ok=True)
    mount(process, "size=100k", process.out)
    error = process.error()
    # to write a shard, or, where the other one was first, to begin
    assert "free some space" in error
    process.barrier("full")
    assert not list(process.out.glob(".tmp-*-shard-*"))
    assert 0 < len(TokenFolder.open(process.out).pending()) < 20
    process.barrier("seen")
    mount(process, "remount,size=2m", process.out)
    process.finish()


def with_full_shared_memory(process: Process) -> None:
    mount(process, "size=4k", Path("/dev/shm"))
    started = time.monotonic()
    error = process.error(workers=2)
    assert error.startswith("shared memory (/dev/shm) is full"), error
    assert time.monotonic() - started < 60
    process.barrier("full")
    # images do not travel through it: little is enough
    mount(process, "size=512k", Path("/dev/shm"))
    process.finish(workers=2)


QUIET = [killed_between_data_and_marker, killed_at_random_times, with_unusual_and_bad_pictures]
QUIET += [in_a_folder_in_use, with_a_killed_loader]
MOUNTING = [on_a_full_disk, with_full_shared_memory]


@pytest.mark.parametrize("scenario", [*QUIET, *MOUNTING])
def test_tokenizing(scenario: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # the other process may be about to begin
    mounts = scenario in MOUNTING
    if mounts:
        if subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode:
            pytest.skip("this machine does not allow mounts of one's own (unshare -rm)")
        # Both begin at a barrier; one that the full disk stopped is waited for.
        monkeypatch.setattr(artifact, "GRACE", 5)
    in_two_processes(scenario, tmp_path, own_mounts=mounts)
