"""Folders that a night must not write into: nothing in them is touched."""

import shutil
from pathlib import Path

import pytest

import overnight_run
from imagegram.cli import run_script


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
