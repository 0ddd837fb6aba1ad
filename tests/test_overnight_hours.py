"""A night keeps to its hours, and a dry run says at once what a night would do."""

import re
import time
from dataclasses import replace
from pathlib import Path

import pytest

import overnight_run
from imagegram.generating import Run
from imagegram.samplers import Aligned, Ntd
from overnight import plan
from tests.support.overnight import make_nights_quick, run
from tests.support.scripts import ROOT, program

_quick = pytest.fixture(make_nights_quick, autouse=True)


def test_nothing_begins_after_the_hours_and_the_same_command_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Run.generate
    begun = []

    def slow(run: Run) -> Run:
        begun.append(run)
        if len(begun) == 4:
            monkeypatch.setattr(time, "monotonic", lambda clock=time.monotonic: clock() + 3600)
        return whole(run)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "generate", slow)
        said = run(tmp_path, "--hours 0.5")
    assert len(begun) == 4
    [line] = re.findall("left out after 0.5 hours: (.*); the same command goes on from there", said)
    assert line.count("ntd-context") == 3
    assert "3 samplers were left out" in (tmp_path / "report.html").read_text()
    said = run(tmp_path, "--hours 0.5")
    assert said.count("generated in") == 3
    assert said.count("finished before") == 5  # four samplers and the held-out images
    assert "is finished, nothing to do" in run(tmp_path, "--hours 0.5")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("Kernel(stepp=0.7)", "unexpected keyword argument 'stepp'"),
        ("Kernal(step=0.7)", "name 'Kernal' is not defined"),
        ("Kernel(step=-1)", "step -1: it must not be negative"),
    ],
)
def test_a_misspelt_sampler_is_one_line(tmp_path: Path, wrong: str, message: str) -> None:
    script = (ROOT / "overnight_run.py").read_text().replace("Kernel(step=0.85)", wrong)
    (tmp_path / "my_night.py").write_text(script)
    done = program(tmp_path / "my_night.py", "--dry-run", ends=1)
    line = 1 + script[: script.index(wrong)].count("\n")
    (said,) = done.stderr.splitlines()
    assert said.startswith(f"error: my_night.py, line {line}: ")
    assert message in said


def test_the_sweep_leaves_out_what_the_samplers_are() -> None:
    [planned] = overnight_run.make_plans(overnight_run.Config(hours=1))
    first, _, *others = (f"ntd-context{c}-temperature{t}" for t in (0.5, 1.0) for c in (1, 2))
    samplers = {"mine": Ntd(context=2, temperature=0.5), first: Aligned()}
    same = replace(planned, samplers=samplers)
    assert set(same.draws()) == {"mine", first, *others}
    assert list(replace(same, hours=0).draws()) == list(same.samplers)


@pytest.mark.parametrize("hours", ["nan", "inf", "-1"])
def test_hours_are_a_number(tmp_path: Path, hours: str) -> None:
    said = run(tmp_path / "out", f"--hours {hours}", ends=1)
    assert f"--hours {float(hours)}: give a number of hours" in said
    assert not (tmp_path / "out").exists()


def test_a_dry_run_says_what_is_to_be_done_and_does_nothing(tmp_path: Path) -> None:
    said = run(tmp_path, "--dry-run --hours 1")
    assert "one index of 2 data sets" in said
    assert said.count("300 images, to tokenize") == 2
    assert said.count("; 30 sequences, 6 decoded") == 7
    assert not list(tmp_path.iterdir())
    run(tmp_path)
    said = run(tmp_path, "--dry-run --hours 1")
    assert said.count("300 images, tokenized") == 2
    assert said.count("; finished") == 3
    assert said.count("; 30 sequences, 6 decoded") == 4
    assert re.search(r"disk: about [\d,]+ MB, [\d,]+ MB are free", said)
    assert re.search(r"memory: about [\d.]+ GiB, [\d.]+ GiB are available", said)


def test_a_dry_run_loads_nothing(tmp_path: Path) -> None:
    main = "from overnight_run import *; main(Config(dry_run=True))"
    done = program("-c", f"import sys; {main}; print('torch' in sys.modules)")
    assert done.stdout.splitlines()[-1] == "False", done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--dataset ./gone", "no data set at ./gone"),
        ("--codec tinny", "unknown codec 'tinny': fashion, tiny"),
    ],
)
def test_a_dry_run_names_what_is_misspelt(tmp_path: Path, arguments: str, message: str) -> None:
    assert message in run(tmp_path, "--dry-run", arguments, ends=1)


def test_an_interrupted_dry_run_claims_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(plan: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(overnight_run, "say_plan", stopped)
    assert run(tmp_path, "--dry-run", ends=130) == "interrupted\n"


def test_the_sizes_of_a_codec_are_those_of_its_weights() -> None:
    from imagegram.codec import load_codec

    for name in ("tiny", "fashion"):
        codec = load_codec(name)
        sizes = plan.sizes_of(name)
        assert sizes == plan.Sizes(codec.image_size, codec.tokens_per_image, codec.levels)
