"""Folders that a night must not write into: nothing in them is touched."""

import shutil
from pathlib import Path

import pytest

import overnight_run
from tests.support.datasets import picture, put
from tests.support.scripts import refused


def test_what_is_not_of_a_night_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    out = tmp_path / "out"
    for file, message in (
        ("report.html", "that are not results of a night, e.g. 'report.html'"),
        ("notes.txt", "that are not results of a night, e.g. 'notes.txt'"),
        ("index/notes.txt", "that are not an index, e.g. 'notes.txt'"),
    ):
        (out / file).parent.mkdir(parents=True)
        (out / file).write_text("my own page")
        assert f"holds files {message}" in refused(overnight_run, f"--out {out}")
        assert [file.read_text() for file in out.rglob("*") if file.is_file()] == ["my own page"]
        shutil.rmtree(out)
    out.symlink_to(tmp_path / "gone")
    assert "a link whose target is gone" in refused(overnight_run, f"--out {out}")
    out.unlink()
    out.mkdir()
    # pictures of the night would be among those of the data set
    said = refused(overnight_run, f"--out {out} --dataset {out}")
    assert f"choose another one, {out}/results for example" in said
    assert not list(out.iterdir())


def test_separate_data_sets_of_one_name_have_folders_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    data = ("cats/train", "dogs/train", ".", "digits")
    config = overnight_run.Config(dataset=data, separate=True, out=Path("out"))
    folders = [plan.out.relative_to("out") for plan in overnight_run.make_plans(config)]
    assert list(map(str, folders)) == ["0-train", "1-train", tmp_path.name, "digits"]


def test_one_data_set_under_two_spellings_is_refused_before_anything_is_made(
    tmp_path: Path,
) -> None:
    for i in range(3):
        put(tmp_path / "d" / f"{i}.png", picture(i))
    (tmp_path / "link").symlink_to("d")
    for other in ("./d/", "link"):
        command = f"--out {tmp_path}/out --dataset {tmp_path}/d {tmp_path}/{other}"
        assert "are the same data set" in refused(overnight_run, command)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("out", ["x" * 300, "/".join(["x" * 100] * 60)])
def test_a_name_or_a_path_that_is_too_long_is_one_line(tmp_path: Path, out: str) -> None:
    for option in ("--out", "--dataset"):
        said = refused(overnight_run, f"--out {tmp_path}/out", f"{option} {tmp_path}/{out}")
        assert "File name too long: choose shorter names" in said
        assert len(said) < 500
