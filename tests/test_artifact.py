"""Folders of results: what is ours and what is not, whatever made it and when."""

import json
import os
from pathlib import Path

import pytest

from imagegram.artifact import FORMAT, KINDS, MARKER, Artifact, others
from imagegram.cli import UserError
from imagegram.files import is_held


@pytest.mark.parametrize("kind", KINDS)
def test_a_claimed_folder_is_ours_and_one_of_another_kind_is_refused(
    tmp_path: Path, kind: str
) -> None:
    folder = Artifact(tmp_path / "a" / "b", kind)
    assert not folder.is_ours()
    folder.claim()
    assert json.loads((folder.path / MARKER).read_text()) == {"kind": kind, "format": FORMAT}
    folder.claim()
    assert folder.is_ours()
    other = next(name for name in KINDS if name != kind)
    said = f"holds {KINDS[kind].what}, not {KINDS[other].what}: choose"
    with pytest.raises(UserError, match=said):
        Artifact(folder.path, other).claim()


@pytest.mark.parametrize("kind", KINDS)
def test_what_people_keep_is_never_ours(tmp_path: Path, kind: str) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    (tmp_path / ".lock").touch()  # anybody may have one
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    for name, message in (
        ("", "e.g. 'link': choose another folder"),
        ("thesis.tex", "is a file: choose another folder"),
        ("link", "is a link whose target is gone: mend the link"),
    ):
        with pytest.raises(UserError, match=message):
            Artifact(tmp_path / name, kind).claim()
    assert not (tmp_path / MARKER).exists()


@pytest.mark.parametrize(
    ("marker", "message"),
    [
        (
            {"kind": "tokens", "format": FORMAT + 1},
            f"a newer version .format {FORMAT + 1}, .*: upd",
        ),
        ({"kind": "dreams", "format": 1}, "holds dreams, not tokens"),
        (["tokens"], "is damaged"),
        ({"kind": "tokens"}, "is damaged"),
    ],
)
def test_a_marker_of_another_version_is_one_line(
    tmp_path: Path, marker: object, message: str
) -> None:
    (tmp_path / MARKER).write_text(json.dumps(marker))
    with pytest.raises(UserError, match=message):
        Artifact(tmp_path, "tokens").claim()


def test_processes_that_share_a_work_have_a_lock_each(tmp_path: Path) -> None:
    tokens = Artifact(tmp_path / "tokens", "tokens")
    assert tokens.lock_file() == tmp_path / "tokens" / ".lock"
    assert tokens.lock_file(3) == tmp_path / "tokens" / ".lock-3"
    index = Artifact(tmp_path / "index", "index")  # which is renamed: its lock stays beside it
    assert index.lock_file() == tmp_path / ".lock-index"
    assert index.lock_file(3) == tmp_path / ".lock-index-3"
    for place in (tokens, index):
        with place.lock(3):
            if (child := os.fork()) == 0:
                os._exit(2 * is_held(place.lock_file(3)) + is_held(place.lock_file()))
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 2


def test_a_folder_that_another_process_claims_meanwhile_is_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Artifact(tmp_path / "tokens", "tokens")

    def meanwhile(path: Path, ours: str = "") -> list[str]:
        folder.mark()
        (path / "bad.jsonl").touch()
        return others(path, ours)

    monkeypatch.setattr("imagegram.artifact.others", meanwhile)
    folder.check()
