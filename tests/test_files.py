"""Locks, where they work and where they do not; what cannot be written; ~ in every option."""

import contextlib
import errno
import fcntl
import os
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from imagegram import artifact, files
from imagegram.cli import UserError, expand_home
from imagegram.files import atomic, is_held, require_space, run_lock, turn
from overnight.begin import remove_leftovers
from overnight.plan import require_writable
from tests.support.corpora import token_folder
from tests.support.scripts import ROOT, program


def no_locks(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """A file system that answers with this error."""

    def fails(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "lockf", fails)
    monkeypatch.setattr(os, "lockf", fails)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EIO])
def test_without_locks_the_run_goes_on_with_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: int
) -> None:
    no_locks(monkeypatch, number)
    with run_lock(tmp_path, tmp_path / ".lock"):
        assert not is_held(tmp_path / ".lock")  # nobody waits for a lock that nobody can hold
    (said,) = capsys.readouterr().err.splitlines()
    assert f"without locks ({os.strerror(number)})" in said


@pytest.mark.parametrize("number", [errno.EACCES, errno.EAGAIN])
def test_a_held_lock_is_told_from_a_missing_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    no_locks(monkeypatch, number)
    with pytest.raises(UserError, match="in use by process unknown"):
        run_lock(tmp_path, tmp_path / ".lock").__enter__()
    assert is_held(tmp_path / ".lock")


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_every_file_has_the_mode_that_the_umask_gives(
    tmp_path: Path, umask: int, mode: int
) -> None:
    before = os.umask(umask)
    try:
        with atomic(tmp_path / "text") as temporary:
            temporary.write_text("x")
        with atomic(tmp_path / "weights") as temporary:
            save_file({"x": torch.zeros(1)}, temporary)  # gives its files mode 0600
    finally:
        os.umask(before)
    assert {(tmp_path / name).stat().st_mode & 0o777 for name in ("text", "weights")} == {mode}


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (OSError(errno.ENOSPC, "full"), r"full; [\d.]+ MB are free\): free some space, then"),
        (OSError(errno.EDQUOT, "quota"), r"quota; [\d.]+ MB are free\): free some space, then"),
        (OSError("5 requested and 3 written"), "written; .* free some space, then"),  # NumPy's
        (OSError(errno.ENOENT, "gone"), r"gone\): put .* back, then"),
        (OSError(errno.EIO, "broken"), r"broken\): fix that, then"),
    ],
)
def test_what_cannot_be_written_is_one_line_with_its_remedy(
    tmp_path: Path, error: OSError, remedy: str
) -> None:
    (tmp_path / "x").write_text("before")

    def half(file: Path) -> None:
        file.write_text("half")
        raise error

    with pytest.raises(UserError, match=remedy), atomic(tmp_path / "x") as temporary:
        half(temporary)
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("x", "before")]


def test_files_are_on_the_disk_before_they_have_their_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "x"
    flushed: list[tuple[int, bool]] = []

    def flush(number: int) -> None:
        flushed.append((os.fstat(number).st_size, file.exists()))

    monkeypatch.setattr(os, "fsync", flush)
    with atomic(file) as temporary:
        temporary.write_text("whole")
    assert flushed == [(5, False)]


def test_space_is_asked_for_to_the_byte_and_told_in_numbers_that_differ(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = {tmp_path: SimpleNamespace(free=1_999_999)}
    monkeypatch.setattr(files.shutil, "disk_usage", free.__getitem__)
    require_space(tmp_path / "not" / "yet", 1_999_999)
    said = r"yet needs 2\.0 MB, 1\.9 MB are free: free some space first$"
    with pytest.raises(UserError, match=said):
        require_space(tmp_path / "not" / "yet", 2_000_000)


def test_a_place_to_write_to_is_left_as_it_was(tmp_path: Path) -> None:
    require_writable(tmp_path / "not" / "yet")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file cannot be written to"):
        require_writable(tmp_path / "file" / "below")
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


def test_leftovers_are_those_of_processes_that_are_gone(tmp_path: Path) -> None:
    gone = int(Path("/proc/sys/kernel/pid_max").read_text()) + 1
    (tmp_path / "below").mkdir()
    for name in (f".tmp-{gone}-a", f".tmp-{os.getpid()}-a", ".tmp-folder-a", f"tmp-{gone}-a"):
        (tmp_path / "below" / name).touch()
    (tmp_path / f".tmp-{gone}-folder").mkdir()
    before = set(tmp_path.rglob("*"))
    remove_leftovers(tmp_path)
    assert before - set(tmp_path.rglob("*")) == {tmp_path / "below" / f".tmp-{gone}-a"}


def test_others_may_still_start_for_a_minute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(artifact, "GRACE", 60)
    monkeypatch.setattr(artifact.time, "monotonic", lambda: 100.0)
    folder = artifact.Artifact(tmp_path, "tokens")
    assert folder.others_at_work(2, 40.0)
    assert not folder.others_at_work(2, 39.9)
    assert not folder.others_at_work(1, 40.0)


def test_a_turn_is_taken_by_one_process_at_a_time(tmp_path: Path) -> None:
    for taken in (True, False):
        with turn(tmp_path) if taken else contextlib.nullcontext():
            if (child := os.fork()) == 0:
                os._exit(is_held(tmp_path / ".lock"))
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == taken


@dataclass
class Inner:
    place: Path = Path("~/a")


@dataclass
class Config:
    inner: Inner
    folders: tuple[Path, ...] = (Path("~/b"), Path("c/~"))
    dataset: str = "~/pics"
    number: int = 3
    nobody: Path = Path("~nobody-of-that-name/x")


def test_home_is_expanded_in_every_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    config = expand_home(Config(Inner()))
    assert config.inner.place == Path("/home/me/a")
    assert config.folders == (Path("/home/me/b"), Path("c/~"))
    assert config.dataset == "/home/me/pics"
    assert config.nobody == Path("~nobody-of-that-name/x")


def test_build_index_sh_works_from_anywhere(tmp_path: Path) -> None:
    """Through a link, beside files that bear the names of modules, with spaces in paths."""
    link, job = tmp_path / "build", tmp_path / "my job"
    link.symlink_to(ROOT / "build_index.sh")
    job.mkdir()
    fault = "raise SystemExit('the folder that one stands in is no part of the program')"
    (job / "random.py").write_text(fault)
    for number, name in enumerate(("one", "a b")):
        token_folder(job / name, np.random.default_rng(number).integers(0, 9, (20, 4)))
    for script, tokens, index in ((link, ["a b"], "x"), (link.resolve(), ["one", "a b"], "y y")):
        words = ["--tokens", *tokens, "--index", index, "--index-input", "in"]
        done = program(*words, start=script, cwd=job, PYTHONPATH="")
        assert f"index: {index}\n" in done.stdout, done.stderr
        assert (job / index / "index.json").exists()
