"""Several processes build one index, as torchrun starts them: the bytes of a single one."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from imagegram import machine
from imagegram.artifact import MARKER, Artifact
from imagegram.cli import UserError
from imagegram.index.build import build_share
from imagegram.index.folder import Index
from imagegram.machine import Processes
from tests.index.test_build import files_of
from tests.support.corpora import index_of
from tests.support.kills import killed

SHARDS = 8


@pytest.fixture
def right(tmp_path: Path) -> dict[str, str]:
    """What one process leaves of 80 images in eight shards."""
    tokens = np.random.default_rng(0).integers(0, 9, (80, 6))
    return files_of(index_of(tmp_path, tokens, shard_images=10).path)


def share(folder: Path, rank: int, world_size: int) -> Index | None:
    """The share of one process, in `folder`/shared."""
    shared = folder / "shared"
    return build_share(
        [folder / "tokens"],
        shared / "input",
        shared / "index",
        builder="divsufsort",
        shard_images=10,
        processes=Processes(rank, world_size),
    )


@pytest.mark.parametrize("event", [3, 12, 25, 40])
def test_one_is_killed_and_another_number_goes_on(
    tmp_path: Path, right: dict[str, str], capsys: pytest.CaptureFixture[str], event: int
) -> None:
    assert killed(lambda: share(tmp_path, 1, 2), at_event=event)
    capsys.readouterr()
    assert share(tmp_path, 0, 2) is None
    said = capsys.readouterr().out
    missing = next(int(word) for word in said.splitlines()[-1].split() if word.isdigit())
    assert 1 <= missing <= SHARDS // 2
    assert f"{missing} of {SHARDS} shards are missing" in said

    # Three go on, the first one last.
    assert share(tmp_path, 2, 3) is None
    assert share(tmp_path, 1, 3) is None
    index = share(tmp_path, 0, 3)
    assert index is not None
    said = capsys.readouterr().out
    assert said.count("suffixes\n") == missing  # sorted now; the others are kept
    assert files_of(index.path) == right
    hidden = {file.name for file in (tmp_path / "shared").rglob(".*")}
    assert {name for name in hidden if not name.startswith(".lock")} == {MARKER}

    assert share(tmp_path, 1, 2) is not None  # one that comes too late finds it finished
    capsys.readouterr()
    assert share(tmp_path, 0, 1) is not None
    assert "nothing to build" in capsys.readouterr().out


def test_the_first_process_waits_for_the_others(
    tmp_path: Path, right: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other one is still at work when the first has done its share; it builds meanwhile."""
    done: list[Index | None] = []
    monkeypatch.setattr(Artifact, "others_at_work", lambda *how: not done)
    monkeypatch.setattr(time, "sleep", lambda seconds: done.append(share(tmp_path, 1, 2)))
    index = share(tmp_path, 0, 2)
    assert done == [None]
    assert index is not None
    assert files_of(index.path) == right


def test_what_a_process_is_writing_is_left_alone_by_the_others(
    tmp_path: Path, right: dict[str, str]
) -> None:
    share(tmp_path, 0, 3)
    (building,) = (tmp_path / "shared").glob(".building-index-*")
    others = {".tmp-1-table.1", ".tmp-1-shard-4.json", "table.7-parts", ".tmp-1-images.npy"}
    for name in others:
        (building / name).touch()
    share(tmp_path, 2, 3)
    assert {file.name for file in building.iterdir()} >= others
    share(tmp_path, 1, 3)
    index = share(tmp_path, 0, 3)
    assert index is not None
    assert files_of(index.path) == right


def test_torchrun(tmp_path: Path) -> None:
    tokens = np.random.default_rng(0).integers(0, 3, (1600, 40))
    right = files_of(index_of(tmp_path, tokens, shard_images=200).path)
    started = "-m torch.distributed.run --standalone --nproc-per-node=2 -m imagegram.index build"
    places = ["--tokens", tmp_path / "tokens", "--index-input", tmp_path / "in"]
    how = ["--shard-images", "200", "--builder", "divsufsort", "--index"]
    command = [sys.executable, *started.split(), *map(str, places), *how, str(tmp_path / "out")]
    done = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr
    assert files_of(tmp_path / "out") == right
    assert done.stdout.count("---\n") == 1  # the first process speaks for all
    assert done.stdout.count(" suffixes") == SHARDS  # no shard was built twice
    assert "missing" not in done.stdout


def test_processes_without_shards_to_share_are_told_so(
    tmp_path: Path, right: dict[str, str]
) -> None:
    places = [tmp_path / "tokens"], tmp_path / "in", tmp_path / "out"
    for processes, images in ((2, 40), (3, 27)):
        said = f"{processes} processes need shards to share: take --shard-images {images} or less"
        with pytest.raises(UserError, match=said):
            build_share(*places, processes=Processes(1, processes))


def test_the_environment_says_which_process_this_is(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert Processes.from_environment() == Processes(0, 1, 1)
    monkeypatch.setenv("RANK", "5")
    for size in ("", "5", "many"):
        monkeypatch.setenv("WORLD_SIZE", size)
        with pytest.raises(UserError, match="the rank counts from 0 and is below the size"):
            Processes.from_environment()
    monkeypatch.setenv("WORLD_SIZE", "8")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert Processes.from_environment() == Processes(5, 8, 4)


def test_memory_is_what_the_tightest_limit_leaves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = machine.memory_available()
    group = tmp_path / "job" / "step"
    group.mkdir(parents=True)
    (tmp_path / "cgroup").write_text("1:cpu:/\n0::/job/step\n")
    monkeypatch.setattr(machine, "CGROUPS", tmp_path)
    monkeypatch.setattr(machine, "OWN_GROUPS", tmp_path / "cgroup")
    assert machine.memory_available() > usual / 2
    for folder, limit in ((group, "max"), (group.parent, "3000000"), (tmp_path, "9000000")):
        (folder / "memory.max").write_text(limit)
        (folder / "memory.current").write_text("1000000")
    assert machine.memory_available() == 2_000_000
