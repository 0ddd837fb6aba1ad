"""A finished night is left alone until what it depends on changes; then it goes on, or says why."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import overnight_run
from imagegram.data.spec import DatasetSpec
from imagegram.samplers import Aligned
from overnight.begin import finished_before
from overnight.plan import Plan
from tests.support.overnight import make_nights_quick, run

OUT = Path("out")


_quick = pytest.fixture(make_nights_quick, autouse=True)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a data set `cats` of noise and the finished night of it in `out`."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "cats").mkdir()
    for i in range(450):
        picture = np.random.default_rng(i).integers(0, 256, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(picture).save(folder / "cats" / f"{i:03d}.png")
    with pytest.MonkeyPatch.context() as patch:
        make_nights_quick(patch)
        patch.chdir(folder)
        again()
    return folder


def again(ends: int = 0) -> str:
    return run(OUT, "--dataset cats --images 0", ends=ends)


@pytest.fixture
def plan(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Plan:
    """The plan of the night, in a copy of its folder."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    config = overnight_run.Config(dataset=("cats",), out=OUT, sequences=30, decoded=6)
    (plan,) = overnight_run.make_plans(config)
    return plan


def test_a_night_is_finished_until_its_plan_changes(plan: Plan) -> None:
    [cats] = plan.data
    assert finished_before(plan)
    for change in (
        {"data": (replace(cats, images=400),)},
        {"data": (replace(cats, label_column="x"),)},
        {"data": (cats, DatasetSpec("digits"))},
        {"codec": "fashion"},
        {"samplers": {**plan.samplers, "one": Aligned(context=1)}},
        {"samplers": {"one": plan.samplers["one"]}},
        {"sequences": 31},
        {"decoded": 5},
        {"prefixes": 2},
        {"seed": 1},
        {"hours": 1.0},
    ):
        assert not finished_before(replace(plan, **change)), change


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("imagegram.metrics.registry.FIGURES_VERSION", 99),
        ("imagegram.samplers.Aligned.version", 99),
        ("imagegram.codec.miniatures.revision", lambda folder: "trained anew"),
        ("overnight.begin.read_json", lambda file: {"request": {"index": "of other tokens"}}),
    ],
)
def test_a_night_is_not_finished_where_the_code_or_what_it_read_is_another(
    plan: Plan, monkeypatch: pytest.MonkeyPatch, place: str, value: Any
) -> None:
    monkeypatch.setattr(place, value)
    assert not finished_before(plan)


def test_a_night_is_not_finished_where_a_file_of_it_is_gone(plan: Plan) -> None:
    report = "generated/one-seed0/report.json"
    for lost in ("index/table.0", "tokens/shard-00000.npy", report, "report.html", "night.json"):
        kept = (OUT / lost).rename("kept")
        assert not finished_before(plan), lost
        kept.rename(OUT / lost)
        assert finished_before(plan)


def test_images_that_were_added_are_named_and_nothing_is_mixed(plan: Plan) -> None:
    Image.new("RGB", (4, 4)).save("cats/new.png")
    assert not finished_before(plan)
    before = (OUT / "report.html").read_bytes()
    assert "out/tokens holds other tokens (fingerprint" in again(ends=1)
    assert before != (OUT / "report.html").read_bytes()


def test_figures_of_another_version_of_the_code_are_measured_anew(
    plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("metrics.registry", "generating", "metrics.coherence", "metrics.fidelity"):
        monkeypatch.setattr(f"imagegram.{module}.FIGURES_VERSION", 99)
    monkeypatch.setattr("imagegram.samplers.Aligned.version", 7)
    said = again()
    replaced = "replaces a finished run of other settings (figures: 2 -> 99"
    assert said.count(f"{replaced}, version: None -> 7)") == 2
    assert said.count(f"{replaced})") == 2  # one of them the held-out images
    assert "training the classifiers" in said
    assert "is finished, nothing to do" in again()
