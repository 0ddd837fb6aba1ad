"""The script, small: what it writes, and that it goes on where it was stopped."""

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from experiments import scaling_study
from experiments.scaling import plots, points
from experiments.scaling.corpora import Data, load, open_index, sizes
from experiments.scaling.run import Runner, Task
from experiments.scaling_study import Config, main
from imagegram.cli import UserError
from imagegram.data.spec import DatasetSpec
from imagegram.tokens import TokenFolder


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scaling_study, "QUICK_SIZES", (100, 200))
    monkeypatch.setattr(scaling_study, "QUICK_SCENES", 400)
    monkeypatch.setattr(scaling_study, "PREDICTED_FROM", 200)
    monkeypatch.setattr("imagegram.metrics.extrapolate.LEAST_IMAGES", 10)
    monkeypatch.setattr("imagegram.samplers.kernel.fit.STEPS", 1)
    monkeypatch.setattr(points, "KERNEL_IMAGES", 10)
    monkeypatch.setattr(points, "DUPLICATES", 3)


def test_a_stopped_study_goes_on_and_finishes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = Config(datasets=("shapes",), out=tmp_path, quick=True, neural=tmp_path / "none.json")
    whole = Runner.measure

    def stopped(self: Runner, task: object) -> object:
        if len(list((tmp_path / "points").glob("*.json"))) == 4:
            raise KeyboardInterrupt
        return whole(self, task)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(Runner, "measure", stopped)
        with pytest.raises(KeyboardInterrupt):
            main(config)
    before = {file.name: file.stat().st_mtime_ns for file in (tmp_path / "points").glob("*.json")}
    assert len(before) == 4
    main(config)
    assert "4 of 8 points are finished" in capsys.readouterr().out
    assert all((tmp_path / "points" / name).stat().st_mtime_ns == time for name, time in before.items())

    with (tmp_path / "results.csv").open() as file:
        table = list(csv.DictReader(file))
    copies = {
        (row["images"], row["context"]): float(row["value"])
        for row in table
        if row["quantity"] == "copy_probability" and row["sampler"] == "ntd"
    }
    assert copies["200", "16"] == pytest.approx(1)
    assert copies["200", "2"] < copies["100", "2"] < 1
    for name in ("copies", "bits", "matches", "predictions"):
        assert (tmp_path / f"{name}.png").stat().st_size > 10_000


def test_a_point_is_measured_anew_whenever_anything_it_depends_on_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = load(DatasetSpec("shapes", images=400), tmp_path, "tiny")
    task = Task("shapes", "counts", 100, 0)

    def is_measured(data: Data, task: Task = task) -> bool:
        Runner(tmp_path, {"shapes": data}).run([task])
        return "0 of 1 points are finished" in capsys.readouterr().out

    def of_another(**changes: Any) -> Data:
        """The data of a folder with another manifest, such as that of another codec."""
        manifest = replace(data.folder.manifest, **changes)
        return replace(data, folder=TokenFolder(data.folder.path, manifest))

    assert is_measured(data)
    assert not is_measured(data)
    for other in (
        replace(data, training=data.training[::-1]),
        of_another(fingerprint="of other images"),
        of_another(revision="of other weights"),
        of_another(held_out_share=0.2),
    ):
        assert is_measured(other)
        assert not is_measured(other)
        assert is_measured(data)
    for other_task in (replace(task, images=200), replace(task, corpus=1), replace(task, kind="law")):
        assert is_measured(data, other_task)
    assert not is_measured(data)  # they are kept beside it
    for constant in ("run.FORMAT", "run.FIGURES_VERSION", "run.Kernel.version"):
        monkeypatch.setattr(f"experiments.scaling.{constant}", 99)
        assert is_measured(data), constant


def test_the_index_of_a_corpus_is_replaced_where_its_images_are_others(tmp_path: Path) -> None:
    data = load(DatasetSpec("shapes", images=400), tmp_path, "tiny")
    first = open_index(data, 100, 0, tmp_path / "i")
    again = open_index(data, 100, 0, tmp_path / "i")
    assert first.identity == again.identity
    turned = replace(data, training=data.training[::-1])
    assert np.array_equal(open_index(turned, 100, 0, tmp_path / "i").tokens, turned.training[:100])


def test_data_sets_of_one_name_have_folders_of_their_own_and_other_files_are_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place, seed in (("a", 0), ("b", 1)):
        (tmp_path / place / "train").mkdir(parents=True)
        for i in range(160):
            picture = np.random.default_rng((seed, i)).integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(picture).save(tmp_path / place / "train" / f"{i}.png")
    monkeypatch.setattr(Runner, "run", lambda self, tasks: made.extend(tasks))
    monkeypatch.setattr("experiments.scaling.run.write_results", lambda out, tasks: [])
    monkeypatch.setattr("experiments.scaling.plots.draw_all", lambda *arguments: None)
    made: list[Task] = []
    names = tuple(str(tmp_path / place / "train") for place in "ab")
    main(Config(datasets=names, out=tmp_path / "out", quick=True))
    assert {task.dataset for task in made} == {"0-train", "1-train"}
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    with pytest.raises(UserError, match=r"holds files that are not a study, e.g. 'thesis.tex'"):
        main(Config(datasets=names, out=tmp_path / "mine", quick=True))


def test_corpora_of_a_size_are_disjoint_and_the_first_ones_nested(tmp_path: Path) -> None:
    data = load(DatasetSpec("shapes", images=400), tmp_path, "tiny")
    assert data.corpora(100) == 3
    assert data.corpora(200) == 1
    assert sizes(data, (100, 200, 5000)) == [100, 200]
    parts = [data.corpus(100, number) for number in range(3)]
    assert np.array_equal(np.concatenate(parts), data.training[:300])
    assert np.array_equal(data.corpus(200, 0)[:100], parts[0])


def test_a_curve_has_the_widest_interval_of_its_corpora() -> None:
    rows = [(10, 1.0, 0.5, 1.5), (10, 2.0, 1.8, 2.5), (5, 3.0, 3.0, 3.0)]
    table = pd.DataFrame(rows, columns=["images", "value", "low", "high"])
    assert plots.curve(table).values.tolist() == [[5, 3.0, 3.0, 3.0], [10, 1.5, 0.5, 2.5]]


def test_every_prediction_stands_over_its_truth_and_coherence_over_its_copies(tmp_path: Path) -> None:
    table = pd.read_csv(Path(__file__).parents[2] / "docs" / "scaling.csv")
    predicted = plots.predictions(table)
    assert len(predicted) == len(plots.select(table, quantity="predicted_copy_probability")) > 50
    assert (predicted.truth - predicted.value).abs().median() < 0.05
    plots.draw_coherence(tmp_path / "coherence.png", table)
    assert (tmp_path / "coherence.png").stat().st_size > 10_000
