"""Costs of a corpus: measured in processes of their own."""

import time
from pathlib import Path

import pytest

from experiments.scaling.corpora import load, open_index
from experiments.scaling.cost import alone, drawing_cost, index_cost
from imagegram.data.spec import DatasetSpec


def hold(megabytes: int, seconds: float) -> None:
    """Hold so much memory, and be busy for so long."""
    held = bytearray(megabytes << 20)
    held[:: 1 << 12] = b"x" * len(held[:: 1 << 12])
    until = time.process_time() + seconds
    while time.process_time() < until:
        pass


def test_time_and_memory_of_a_step_are_its_own() -> None:
    here = bytearray(900 << 20)  # of the process that asks: not the step's
    here[:: 1 << 12] = b"x" * len(here[:: 1 << 12])
    _, _, large = alone(hold, 600, 0.0)
    seconds, core_seconds, small = alone(hold, 100, 0.3)
    assert 0.3 <= core_seconds < 1.5  # to import PyTorch, before the step, takes more
    assert seconds >= 0.25
    assert large - small == pytest.approx(500 << 20, rel=0.1)
    assert small < len(here)


def test_every_step_of_a_corpus_has_its_costs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imagegram.samplers.kernel.fit.STEPS", 1)
    monkeypatch.setattr("experiments.scaling.cost.DRAWN", ())  # drawing is the samplers' own test
    data = load(DatasetSpec("shapes", images=120), tmp_path, "tiny")
    rows = list(index_cost(data, 100, 0, tmp_path / "timed"))
    assert [(each["sampler"], each["quantity"]) for each in rows] == [
        (step, quantity) for step in ("index", "verify") for quantity in ("seconds", "core_seconds", "peak_gb")
    ]
    assert all(each["value"] > 0 for each in rows)
    assert not (tmp_path / "timed").exists()
    assert not list(drawing_cost(open_index(data, 100, 0, tmp_path / "index")))
