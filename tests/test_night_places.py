"""Folders that a night must not write into: nothing in them is touched."""

import shutil
from pathlib import Path

import pytest

import overnight_run
from imagegram.cli import run_script
from tests.support.datasets import picture, put


def run(out: Path, *arguments: str) -> int:
    return run_script(overnight_run.main, overnight_run.Config, "", ["--out", str(out), *arguments])


def test_what_is_not_of_a_night_is_refused_before_anything_is_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    for file, message in (
        ("report.html", "holds files that are not results of a night, e.g. 'report.html'"),
        ("notes.txt", "holds files that are not results of a night, e.g. 'notes.txt'"),
        ("index/notes.txt", "holds files that are not an index, e.g. 'notes.txt'"),
    ):
        (out / file).parent.mkdir(parents=True)
        (out / file).write_text("my own page")
        assert run(out) == 1
        assert message in capsys.readouterr().err
        assert [file.read_text() for file in out.rglob("*") if file.is_file()] == ["my own page"]
        shutil.rmtree(out)
    out.symlink_to(tmp_path / "gone")
    assert run(out) == 1
    assert "a link whose target is gone" in capsys.readouterr().err
    out.unlink()
    out.mkdir()
    assert run(out, "--dataset", str(out)) == 1  # its pictures would be among those of the data set
    assert f"choose another one, {out}/results for example" in capsys.readouterr().err
    assert not list(out.iterdir())


def test_separate_data_sets_of_one_name_have_folders_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    data = ("cats/train", "dogs/train", ".", "digits")
    plans = overnight_run.make_plans(
        overnight_run.Config(dataset=data, separate=True, out=Path("out"))
    )
    assert [str(plan.out) for plan in plans] == [
        "out/0-train",
        "out/1-train",
        f"out/{tmp_path.name}",
        "out/digits",
    ]


def test_one_data_set_under_two_spellings_is_refused_before_anything_is_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for i in range(3):
        put(tmp_path / "d" / f"{i}.png", picture(i))
    (tmp_path / "link").symlink_to("d")
    for other in (f"{tmp_path}/./d/", f"{tmp_path}/link"):
        assert run(tmp_path / "out", "--dataset", str(tmp_path / "d"), other) == 1
        assert "are the same data set" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("out", ["x" * 300, "/".join(["x" * 100] * 60)])
def test_a_name_or_a_path_that_is_too_long_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], out: str
) -> None:
    for option in ("--out", "--dataset"):
        assert run(tmp_path / "out", option, str(tmp_path / out)) == 1
        said = capsys.readouterr().err
        assert "File name too long: choose shorter names" in said
        assert said.count("\n") == 1
        assert len(said) < 500
