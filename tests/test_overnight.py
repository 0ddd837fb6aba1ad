"""The night as a batch job: it can be killed, starved and misled, and says where it stands."""

import json
import os
import random
import re
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import overnight_run
from imagegram import tokenizing
from imagegram.artifact import MARKER, Artifact
from imagegram.cli import UserError
from imagegram.data.spec import DatasetSpec
from imagegram.generating import Run
from imagegram.samplers import Aligned, Kernel, Ntd
from overnight import night
from tests.support.kills import fork, killed
from tests.support.overnight import make_nights_quick, run
from tests.support.scripts import refused

_quick = pytest.fixture(make_nights_quick, autouse=True)


def results(out: Path) -> dict[str, object]:
    """All that a night computes: bytes of tokens, index, samples and pictures; the figures."""
    found: dict[str, object] = {}
    for file in sorted(out.rglob("*")):
        name = str(file.relative_to(out))
        if file.suffix in (".npy", ".png") or re.search(r"index/(tokenized|table|offset)", name):
            found[name] = file.read_bytes()
        if file.name == "report.json":
            report = json.loads(file.read_text())
            found[name] = report.get("generated"), report.get("held_out")
        if file.name == "pictures.json":
            found[name] = json.loads(file.read_text())
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("overnight")


@pytest.fixture
def finished(folder: Path, tmp_path: Path, _quick: None) -> Path:
    """A copy of a finished night."""
    whole = folder / "whole"
    if not whole.exists():
        run(whole)
    shutil.copytree(whole, tmp_path / "night")
    return tmp_path / "night"


def test_a_night_killed_ten_times_ends_as_one_that_was_not(finished: Path, tmp_path: Path) -> None:
    right = results(finished)
    out = tmp_path / "killed"
    rng, kills = random.Random(1), 0
    while kills < 10:
        if killed(lambda: run(out), at_event=rng.randint(5, 60)):
            kills += 1
        else:  # it came to its end
            assert results(out) == right
            shutil.rmtree(out)
    run(out)
    assert results(out) == right
    assert not list(out.rglob(".tmp-*"))


def test_every_folder_of_a_night_has_its_marker(finished: Path) -> None:
    made = {path for path in (finished, *finished.rglob("*")) if path.is_dir()}
    assert {file.parent for file in finished.rglob(MARKER)} == made - {finished / "generated"}


def test_two_data_sets_share_an_index_and_their_classes_stay_apart(finished: Path) -> None:
    page = (finished / "report.html").read_text()
    data = json.loads(re.findall(r'id="data">(.*?)</script>', page)[0])
    assert [one["name"] for one in data["datasets"]] == ["digits", "shapes"]
    assert {source for source, _, _ in data["images"]} == {0, 1}
    sources = np.load(finished / "generated" / "one-seed0" / "sources.npy")
    assert set(np.unique(sources[..., 0])) == {0, 1}
    assert "digits, shapes" in page


def test_every_data_set_has_an_index_of_its_own_when_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overnight_run, "SAMPLERS", {"one": Aligned(context=0)})
    (tmp_path / "empty").mkdir()
    data = f"--dataset digits {tmp_path}/empty shapes"
    said = run(tmp_path / "out", "--separate --sequences 20", data, ends=1)
    assert "out/empty: " in said  # named, and the others are finished
    for name in ("digits", "shapes"):
        assert (tmp_path / "out" / name / "report.html").exists()


def test_a_finished_night_says_its_figures_again_and_touches_nothing(finished: Path) -> None:
    times = {file: file.stat().st_mtime_ns for file in finished.rglob("*")}
    said = run(finished)
    assert "is finished, nothing to do" in said
    assert re.search(r"^ +P\(exact copy\) +exact copies ", said, re.MULTILINE)
    assert re.search(r"^copies +[\d.]+ \(exact\) +100 % \(", said, re.MULTILINE)
    assert times == {file: file.stat().st_mtime_ns for file in finished.rglob("*")}


def durations(out: Path) -> dict[str, str]:
    """Seconds of every step, as the page says them."""
    [line] = re.findall("<dt>Seconds</dt><dd>(.*?)</dd>", (out / "report.html").read_text())
    return dict(part.rsplit(" ", 1) for part in line.split(", "))


def test_a_new_sampler_costs_only_itself(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    marker = json.loads((finished / "tokens-1-shapes" / "shard-00000.json").read_text())
    before = durations(finished)
    assert float(before["tokenizing shapes"]) == pytest.approx(marker["seconds"], abs=0.06)
    assert {"building the index", "training the classifiers", "held-out", "two"} < set(before)
    monkeypatch.setitem(overnight_run.SAMPLERS, "three", Ntd(context=1))
    said = run(finished)
    assert said.count("finished before") == 4  # three samplers and the held-out images
    assert said.count("generated in") == 1
    assert "three" in (finished / "report.html").read_text()
    after = durations(finished)
    assert before == {name: after[name] for name in after if name != "three"}  # not measured anew


def test_lost_tokens_and_a_broken_index_are_made_again_to_the_same_bytes(finished: Path) -> None:
    right = results(finished)
    (finished / "tokens-1-shapes" / "shard-00000.npy").unlink()
    table = finished / "index" / "table.0"
    table.write_bytes(table.read_bytes()[:-5])
    said = run(finished)
    assert "shard-00000.npy is missing; tokenized again" in said
    assert "table.0 is cut short" in said
    assert said.count("finished before") == 4  # the same index as before: nothing is drawn again
    assert results(finished) == right

    # A bit that flipped, in a file that looks as before.
    (finished / "report.html").unlink()  # the night is to go on
    time_before = table.stat().st_mtime_ns
    content = bytearray(table.read_bytes())
    content[100] ^= 2
    table.write_bytes(content)
    os.utime(table, ns=(time_before, time_before))
    assert f"not kept: {table} differs from its hash" in run(finished)
    assert results(finished) == right


def break_copies(monkeypatch: pytest.MonkeyPatch, breaks: Callable[[Run], object]) -> None:
    """Something happens when the sampler "copies" is run."""
    whole = Run.generate

    def generate(run: Run) -> Run:
        if run.request.draw.sampler == Ntd(context=9):
            breaks(run)
        return whole(run)

    monkeypatch.setattr(Run, "generate", generate)


@pytest.mark.parametrize(
    "fault", [RuntimeError("out of luck"), OSError(28, "No space left on device")]
)
def test_a_sampler_that_fails_is_named_and_the_others_are_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Exception
) -> None:
    def fails(run: Run) -> None:
        Artifact(run.path, "images").claim()
        (run.path / "image_0000.png").touch()
        raise fault

    with monkeypatch.context() as patch:
        break_copies(patch, fails)
        said = run(tmp_path, ends=1)
    assert f"error: copies: {fault}" in said
    assert "copies failed, as said above; 2 of 3 samplers finished" in said.splitlines()[-1]
    # a fault of the program says where
    assert ("Traceback" in said) == isinstance(fault, RuntimeError)
    assert str(fault) in (tmp_path / "report.html").read_text()
    # a full disk has room for the page again
    assert not (tmp_path / "generated" / "copies-seed0").exists()
    log = (tmp_path / "night.log").read_text()
    assert re.search(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d error: copies: ", log, re.MULTILINE)
    assert "ended by UserError: copies failed" in log
    run(tmp_path)  # the same command tries again
    assert "copies failed" not in (tmp_path / "report.html").read_text()


def test_a_page_that_cannot_be_written_does_not_end_the_night(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(sources: object) -> None:
        raise RuntimeError("a fault of the template")

    with monkeypatch.context() as patch:
        patch.setattr(night, "write_page", full)
        said = run(tmp_path, ends=1)
    assert said.count("generated in") == 4  # three samplers and the held-out images
    last = said.splitlines()[-1]
    assert "writing the page failed, as said above; 3 of 3 samplers finished" in last
    run(tmp_path)
    assert (tmp_path / "report.html").exists()


def test_a_sampler_that_is_impossible_is_named_and_the_others_are_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samplers = {"class-77": Kernel(label="77"), "one": Aligned(context=0)}
    monkeypatch.setattr(overnight_run, "SAMPLERS", samplers)
    said = run(tmp_path, ends=1)
    assert "error: class-77: " in said
    assert "class-77 failed, as said above; 1 of 2 samplers finished" in said.splitlines()[-1]
    assert said.count("sampler 2 of 2, one") == 1
    assert "holds no image of class &#39;77&#39;" in (tmp_path / "report.html").read_text()


def test_a_data_set_that_fails_stops_the_night_and_the_page_says_why(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (finished / "night.json").unlink()
    for name in ("tokens-0-digits", "tokens-1-shapes"):
        (finished / name / "shard-00000.npy").unlink()
    whole = tokenizing.tokenize_dataset

    def fails(spec: DatasetSpec, *arguments: object) -> object:
        if spec.name == "digits":
            raise UserError("no <luck>")
        return whole(spec, *arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(night, "tokenize_dataset", fails)
        said = run(finished, ends=1)
    assert "tokenizing digits failed, as said above: no sampler was run" in said
    assert (finished / "tokens-1-shapes" / "shard-00000.npy").exists()  # the rest is done
    assert "tokenizing digits failed</b>: no &lt;luck&gt;" in (finished / "report.html").read_text()
    run(finished)
    assert "failed</b>" not in (finished / "report.html").read_text()


def test_a_small_machine_is_refused_in_one_line_and_nothing_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_only(dir: Path) -> object:
        raise OSError(30, "Read-only file system")

    little = SimpleNamespace(free=1_000_000)
    memory = "1.0 GiB are available: end other programs, or take fewer"
    for place, value, message in (
        ("imagegram.files.shutil.disk_usage", lambda path: little, "1.0 MB are free: free"),
        ("overnight.plan.memory_available", lambda: 2**30, memory),
        ("overnight.plan.tempfile.TemporaryFile", read_only, "written to (Read-only file sys"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(place, value)
            assert message in refused(overnight_run, f"--out {tmp_path}/out")
        assert not (tmp_path / "out").exists()


def test_a_finished_run_of_other_settings_is_not_replaced(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right, other = results(finished), "holds a finished run of other settings"
    said = run(finished, "--decoded 5", ends=1)
    assert f"two-seed0 {other} (decoded: 6 -> 5): give" in said
    monkeypatch.setitem(overnight_run.SAMPLERS, "one", Aligned(context=1))
    assert f"one-seed0 {other} (context: 0 -> 1): give" in run(finished, ends=1)
    assert results(finished) == right


@pytest.mark.parametrize("stop", [signal.SIGHUP, signal.SIGTERM])
def test_a_closed_terminal_and_a_scheduler_stop_the_night_cleanly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: signal.Signals
) -> None:
    break_copies(monkeypatch, lambda run: os.kill(os.getpid(), stop))
    # SIGHUP is ignored under nohup, by the night as well
    before = signal.signal(stop, signal.SIG_DFL)
    try:
        said = run(tmp_path, ends=130)
    finally:
        signal.signal(stop, before)
    assert "the same command goes on from it" in said
    assert "ended by KeyboardInterrupt" in (tmp_path / "night.log").read_text()
    assert "<b>Not finished yet</b>: copies, one." in (tmp_path / "report.html").read_text()


def test_everything_is_checked_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    for samplers, arguments, message in (
        ({"a/b": Aligned()}, "", "the sampler 'a/b' names a folder"),
        ({}, "", "no sampler"),
        ({"one": Aligned()}, "--sequences 0", "--sequences must be at least 1"),
        ({"one": Aligned()}, "--dataset digits digits", "stands twice"),
    ):
        monkeypatch.setattr(overnight_run, "SAMPLERS", samplers)
        assert message in refused(overnight_run, f"--out {out}", arguments)
        assert not out.exists()


def test_a_second_night_in_the_same_folder_is_refused(finished: Path) -> None:
    (finished / "night.json").unlink()
    reader, writer = os.pipe()

    def hold() -> None:
        with Artifact(finished, "run").lock():
            os.write(writer, b".")
            time.sleep(60)

    child = fork(hold)
    os.read(reader, 1)
    try:
        assert f"is in use by process {child}" in run(finished, ends=1)
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)
