"""Tokenizing when things go wrong: killed processes, full disks, dead loaders, odd machines."""

import contextlib
import ctypes
import os
import shlex
import signal
import sys
import threading
import time
from pathlib import Path
from subprocess import PIPE, STDOUT, Popen
from types import SimpleNamespace
from typing import Any

import pytest

import tokenize_fast
from imagegram import files, tokenizing
from imagegram.artifact import Artifact
from imagegram.cli import UserError
from imagegram.data.loading import load_batches
from imagegram.data.spec import DatasetSpec
from imagegram.files import is_held
from imagegram.machine import stops_wait
from tests.support.fake_codec import SMALL_JOB, FakeCodec
from tests.support.kills import fork
from tests.support.scripts import ROOT, program, refused
from tests.support.tokenize import contents, tokenize

SMALL_BATCHES = "--shard-size 10 --batch-size 5 --workers 1"
# a machine whose text is not UTF-8
PLAIN: dict[str, Any] = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@pytest.fixture
def undisturbed(tmp_path: Path, codec: FakeCodec) -> dict[str, bytes]:
    """What the job leaves when nothing goes wrong."""
    tokenize(out=tmp_path / "whole", **SMALL_JOB)
    return contents(tmp_path / "whole")


def torchrun(processes: int, out: Path) -> Popen[str]:
    """tokenize_imagenet_large.py as the README starts it."""
    start = f"-m torch.distributed.run --standalone --nproc-per-node={processes}"
    script = f"{ROOT}/tokenize_imagenet_large.py --dataset shapes --images 600 --codec tiny"
    command = shlex.split(f"{sys.executable} {start} {script} {SMALL_BATCHES} --out {out}")
    return Popen(command, stdout=PIPE, stderr=PIPE, text=True)


def finished(out: Path) -> int:
    """The number of shards that are done."""
    return len(list(out.glob("shard-*.json")))


def wait_for_shards(out: Path, count: int) -> None:
    deadline = time.monotonic() + 90
    while finished(out) < count and time.monotonic() < deadline:
        time.sleep(0.005)


def test_torchrun_killed_stopped_and_resumed_with_other_numbers_of_processes(
    tmp_path: Path,
) -> None:
    out = tmp_path / "torchrun"
    locks = [Artifact(out, "tokens").lock_file(rank) for rank in (0, 1)]
    killed = torchrun(2, out)
    while not all(lock.exists() for lock in locks):
        assert killed.poll() is None, killed.communicate()[1]
        time.sleep(0.05)
    wait_for_shards(out, 3)
    killed.kill()
    for lock in locks:  # torchrun's processes outlive it
        os.kill(int(lock.read_text()), signal.SIGKILL)
    killed.communicate(timeout=30)
    after_kill = finished(out)
    assert 3 <= after_kill < 60, "the kill came too late or too early to test anything"

    stopped = torchrun(3, out)
    wait_for_shards(out, after_kill + 6)
    stopped.send_signal(signal.SIGTERM)
    _, errors = stopped.communicate(timeout=60)
    assert stopped.returncode != 0
    assert "the same command goes on from it" in errors
    assert after_kill < finished(out) < 60

    last = torchrun(2, out)
    said, errors = last.communicate(timeout=120)
    assert last.returncode == 0, errors
    tokenize("shapes", tmp_path / "plain", images=600, shard_size=10, batch_size=5, workers=0)
    assert contents(out) == contents(tmp_path / "plain")
    assert not list(out.glob(".tmp-*-shard-*"))
    assert said.count("---") == 1  # one process speaks for all
    assert "\nimages: 600\n" in said
    assert "missing" not in said


def test_a_damaged_shard_is_named_and_redone_alone(
    tmp_path: Path, undisturbed: dict[str, bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    tokenize(out=out, **SMALL_JOB)
    times = {file.name: file.stat().st_mtime_ns for file in out.glob("*.npy")}
    (out / "shard-00007.npy").write_bytes(undisturbed["shard-00007.npy"][:-1])
    (out / "labels-00009.npy").unlink()
    (out / "bad.jsonl").unlink()
    capsys.readouterr()
    tokenize(out=out, **SMALL_JOB)
    said = capsys.readouterr().out
    assert "shard 7: shard-00007.npy is cut short or too long; tokenized again" in said
    assert "shard 9: labels-00009.npy is missing; tokenized again" in said
    assert contents(out) == undisturbed
    redone = {n for n, t in times.items() if (out / n).stat().st_mtime_ns != t}
    kinds = ("shard", "labels", "hashes")
    assert redone == {f"{kind}-0000{shard}.npy" for kind in kinds for shard in (7, 9)}
    (out / "bad.jsonl").unlink()  # killed before it was written
    tokenize(out=out, **SMALL_JOB)
    assert contents(out) == undisturbed


def test_the_space_of_all_processes_is_asked_for(
    tmp_path: Path, codec: FakeCodec, monkeypatch: pytest.MonkeyPatch
) -> None:
    # 20 shards of 10 images of 4 tokens, a label and a hash
    usage = SimpleNamespace(free=20 * 10 * 20)
    monkeypatch.setattr(files.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(UserError, match="free some space first"):
        tokenize(out=tmp_path, rank=1, world_size=2, **SMALL_JOB)
    usage.free = 22 * 10 * 20
    tokenize(out=tmp_path, rank=1, world_size=2, **SMALL_JOB)
    assert len(list(tmp_path.glob("shard-*.npy"))) == 10


def test_the_first_process_speaks_for_all(
    tmp_path: Path, codec: FakeCodec, capsys: pytest.CaptureFixture[str]
) -> None:
    tokenize(out=tmp_path, rank=1, world_size=2, **SMALL_JOB)
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", "")
    # another number: 4 shards of process 1 or 2 remain
    tokenize(out=tmp_path, rank=0, world_size=3, **SMALL_JOB)
    said = capsys.readouterr()
    assert "10 of 20 shards to tokenize with fake in 3 processes" in said.out
    assert "6 of 20 shards are missing: other processes may still be at work" in said.out
    assert "\nimages: 140\n" in said.out
    tokenize(out=tmp_path, **SMALL_JOB)
    assert "\nimages: 200\n" in capsys.readouterr().out


def test_progress_counts_the_finished_shards_of_the_others(
    tmp_path: Path, codec: FakeCodec
) -> None:
    folder = tokenize(out=tmp_path, **SMALL_JOB)
    (tmp_path / "shard-00003.json").unlink()
    progress = tokenizing.Progress(folder, list(range(20)), list(range(0, 20, 2)), shown=True)
    with progress.bar as bar:
        progress.add(10)
        progress.look()
        progress.look()
        assert (bar.total, bar.n) == (200, 10 + 90)  # nine of the other process's ten
    assert not is_held(tmp_path / ".lock")
    assert not is_held(tmp_path / ".lock-5")


def test_numbers_of_loaders_are_shared_by_the_processes_of_a_machine(
    image_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = DatasetSpec(str(image_folder)).open()
    monkeypatch.setattr("imagegram.data.loading.cores", lambda: 16)
    for processes, loaders in ((1, 16), (8, 2), (64, 1)):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
        assert load_batches(source, [[0]], 32).num_workers == loaders


@pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGHUP, signal.SIGTERM])
def test_loaders_end_with_the_run_and_let_go_of_its_pipe(
    tmp_path: Path, stop: signal.Signals
) -> None:
    """Whatever ends a run, a pipe behind it (`| tee log`) ends as well, and no process stays."""

    def heed_hangups() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # which nohup has ignored

    script = f"{sys.executable} {ROOT}/tokenize_fast.py --out {tmp_path}/t"
    command = shlex.split(f"{script} --dataset shapes --images 50000 --workers 2")
    process = Popen(command, stdout=PIPE, stderr=STDOUT, preexec_fn=heed_hangups)
    assert process.stdout
    os.set_blocking(process.stdout.fileno(), False)
    said = b""
    deadline = time.monotonic() + 120
    while b"img/s" not in said and time.monotonic() < deadline:
        said += process.stdout.read() or b""
        time.sleep(0.05)
    assert b"img/s" in said, said
    process.send_signal(stop)
    os.set_blocking(process.stdout.fileno(), True)
    reader = threading.Thread(target=process.stdout.read)
    reader.start()
    reader.join(30)
    assert not reader.is_alive(), "a process still holds the pipe"
    assert process.wait(5) == (-stop if stop == signal.SIGKILL else 130)


def test_a_stop_that_arrives_during_a_fork_is_not_lost() -> None:
    before = signal.getsignal(signal.SIGTERM)
    reached = []

    def fork() -> None:
        with stops_wait():
            # as Python does with what is raised right after a fork
            with contextlib.suppress(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGTERM)
            reached.append("the end of the block")

    with pytest.raises(KeyboardInterrupt):
        fork()
    assert reached
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_folder_that_cannot_be_written_is_named_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    said = refused(tokenize_fast, f"--out={tmp_path}/file/below")
    assert said.startswith(f"error: {tmp_path}/file/below")


def test_a_finished_folder_that_is_read_only_is_finished(
    tmp_path: Path, codec: FakeCodec, capfd: pytest.CaptureFixture[str]
) -> None:
    for out in (tmp_path / "finished", tmp_path / "half"):
        tokenize(out=out, **SMALL_JOB)
        (tmp_path / "half" / "shard-00007.json").unlink(missing_ok=True)
        for file in (out, *out.iterdir()):
            file.chmod(0o555)

    def without_privileges() -> None:
        nothing = (ctypes.c_uint32 * 6)()  # what root may do as well
        assert ctypes.CDLL(None).capset((ctypes.c_uint32 * 2)(0x20080522, 0), nothing) == 0
        tokenize(out=tmp_path / "finished", **SMALL_JOB)
        with pytest.raises(UserError, match=r"cannot write .*half/.*Permission denied.*: fix that"):
            tokenize(out=tmp_path / "half", **SMALL_JOB)

    report = tmp_path / "failed"
    ended = os.waitpid(fork(without_privileges, report), 0)[1]
    assert ended == 0, report.read_text()


def test_names_that_are_no_text_in_the_locale_are_read_all_the_same(tmp_path: Path) -> None:
    for command in (
        f"{ROOT}/tokenize_fast.py --images 60 --workers 0 --out 出",
        "-m imagegram.index build --tokens=出 --index-input=入 --index=索引",
        f"{ROOT}/generate_images.py ntd --index=索引 --sequences=5 --decoded=0 --out=絵",
    ):
        program(*command.split(), cwd=tmp_path, **PLAIN)
    assert (tmp_path / "絵" / "report.json").exists()


def test_a_page_is_text_whatever_the_locale(tmp_path: Path) -> None:
    code = """if True:
        import sys
        from pathlib import Path
        from imagegram.report.page import short_names, write_stopped_page
        from imagegram.report.record import Night
        command = f"overnight_run.py --dataset {sys.argv[1]}"
        night = Night(command, 1, 1, 0, {}, failed={sys.argv[1]: "gone"})
        write_stopped_page(Path(), night)
        print(ascii(short_names([sys.argv[1]])))
    """
    done = program("-c", code, "日本", cwd=tmp_path, **PLAIN)
    assert done.stdout == f"{['日本']!a}\n", done.stderr
    assert "日本</" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_too_little_memory_for_pytorch_is_one_line(tmp_path: Path) -> None:
    script = f"{sys.executable} {ROOT}/tokenize_fast.py --images 20 --out {tmp_path}/t"
    done = program("-c", f"ulimit -v 2500000; exec {script}", start="bash", ends=1)
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert "(ulimit -v)" in line
