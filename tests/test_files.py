"""The lock of a run, where locks work and where they do not; ~ in every option."""

import errno
import fcntl
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from imagegram.cli import UserError, expand_home
from imagegram.files import atomic, is_held, run_lock
from tests.support.corpora import token_folder

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EIO])
def test_without_locks_the_run_goes_on_with_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: int
) -> None:
    def fails(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "lockf", fails)
    monkeypatch.setattr(os, "lockf", fails)
    with run_lock(tmp_path, tmp_path / ".lock"):
        assert not is_held(tmp_path / ".lock")  # nobody waits for a lock that nobody can hold
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert f"without locks ({os.strerror(number)})" in said


@pytest.mark.parametrize("number", [errno.EACCES, errno.EAGAIN])
def test_a_held_lock_is_told_from_a_missing_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def fails(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "lockf", fails)
    monkeypatch.setattr(os, "lockf", fails)
    with pytest.raises(UserError, match="in use by process unknown"), run_lock(tmp_path, tmp_path / ".lock"):
        pass
    assert is_held(tmp_path / ".lock")


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_every_file_has_the_mode_that_the_umask_gives(tmp_path: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        with atomic(tmp_path / "text") as temporary:
            temporary.write_text("x")
        with atomic(tmp_path / "weights") as temporary:
            save_file({"x": torch.zeros(1)}, temporary)  # gives its files mode 0600
    finally:
        os.umask(before)
    assert {(tmp_path / name).stat().st_mode & 0o777 for name in ("text", "weights")} == {mode}


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
    """Through a link, beside files that bear the names of modules, with spaces in paths; options and environment."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "build").symlink_to(ROOT / "build_index.sh")
    job = tmp_path / "my job"
    job.mkdir()
    (job / "random.py").write_text("raise SystemExit('the folder that one stands in is no part of the program')")
    environment = os.environ | {"PYTHON": sys.executable}

    def call(command: Path, *arguments: str, **more: str) -> str:
        result = subprocess.run([command, *arguments], cwd=job, env=environment | more, capture_output=True, text=True)
        return result.stdout + result.stderr

    for number, name in enumerate(("one", "a b")):
        token_folder(job / name, np.random.default_rng(number).integers(0, 9, (20, 4)))
    assert "index: x\n" in call(tmp_path / "bin" / "build", TOKENS="a b", INDEX="x", INDEX_INPUT="in", BUILDER="auto")
    assert "index: y y\n" in call(
        ROOT / "build_index.sh", "--tokens", "one", "a b", "--index", "y y", "--index-input", "in"
    )
    assert (job / "x" / "index.json").exists()
    assert (job / "y y" / "index.json").exists()
    assert "no tokens in nowhere" in call(ROOT / "build_index.sh", TOKENS="nowhere")
    assert "--shard-images" in call(ROOT / "build_index.sh", "--help")
    assert "SHARD_IMAGES=many is no whole number" in call(ROOT / "build_index.sh", SHARD_IMAGES="many")
