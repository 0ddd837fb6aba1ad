"""A night keeps to its hours."""

import re
from pathlib import Path

import pytest

from imagegram.overnight import night
from imagegram.overnight.trial import on_the_line
from imagegram.samplers.settings import Settings
from tests.support.overnight import make_nights_quick, run


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    make_nights_quick(monkeypatch)


def test_hours_bound_the_sweep(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, "--hours", "1e-9") == 0
    assert "4 samplers of the sweep do not fit into 1e-09 hours" in capsys.readouterr().out
    assert "did not fit into the hours" in (tmp_path / "report.html").read_text()
    assert run(tmp_path, "--hours", "1") == 0
    assert capsys.readouterr().out.count("generated in") == 4
    assert "ntd-context2-temperature0.5" in (tmp_path / "report.html").read_text()


def test_what_would_end_after_the_hours_is_never_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def trial(index: object, control: object, codec: object, settings: Settings, *numbers: int) -> float:
        return 10_000 if settings.reweighted else 1

    monkeypatch.setattr(night, "seconds_of_sampler", trial)
    assert run(tmp_path, "--hours", "1") == 0
    said = capsys.readouterr().out
    assert "5 of 7 samplers fit into 1 hours and take about" in said
    for context in (1, 2):
        name = f"ntd-context{context}-temperature"
        assert re.search(rf"{name}0.5 is left out: it takes about 2.8 h, of 1 hours \d+ min are left", said)
        assert not (tmp_path / "generated" / f"{name}0.5-seed0").exists()
        assert (tmp_path / "generated" / f"{name}1.0-seed0" / "report.json").exists()


def test_a_trial_tells_what_more_sequences_take() -> None:
    assert on_the_line([50, 1, 4], 224) == 7  # 32 take 1 s, 128 take 4 s: 96 more take 3
    assert on_the_line([50, 4, 3], 1000) == 3  # it was disturbed
