"""A data set as it is asked for: the same options everywhere, and a sample where a part stands for
the whole."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import tyro

import overnight_run
import tokenize_fast
import train_tiny_flextok
from imagegram.data.dataset import DatasetOptions, permutation, sample
from imagegram.data.spec import DatasetSpec
from imagegram.report.pictures import Originals
from imagegram.tokens import TokenFolder
from tests.support.datasets import picture, put, put_pictures
from tests.support.opened import refused
from tests.support.tokenize import tokenize


def sorted_folder(path: Path, each: int = 60) -> Path:
    """Two classes, one after the other, as every folder of classes has them."""
    return put_pictures(path, *(f"{'ab'[i // each]}/{i:03d}.png" for i in range(2 * each)))


def test_a_sample_is_nested_in_order_and_takes_from_everywhere() -> None:
    assert sorted(permutation(1000)) == list(range(1000))
    small, large = (sample(1000, wanted) for wanted in (100, 300))
    assert set(small) < set(large)
    assert (np.diff(large) > 0).all()
    assert (permutation(1000, seed=1) != permutation(1000)).any()
    quarters = np.bincount(large // 250)
    assert quarters.min() > 50  # 75 are expected, with a standard deviation of 6
    assert abs(np.corrcoef(permutation(1000), np.arange(1000))[0, 1]) < 0.1


def test_images_takes_a_sample_of_a_sorted_data_set_and_its_ordinals_stay(tmp_path: Path) -> None:
    whole = sorted_folder(tmp_path / "d")
    dataset = DatasetSpec(str(whole), images=40).open()
    assert len(dataset) == 40
    assert "a random 40 of them, seed 0 (--images)" in "\n".join(dataset.describe())
    found = [dataset.read(i)[1] for i in dataset.ordinals.tolist()]
    assert 10 < sum(found) < 30
    assert found == sorted(found)

    # An image keeps its ordinal, its label and its side of the held-out split, whatever is
    # tokenized beside it.
    everything = tokenize(str(whole), tmp_path / "all").load()
    folder = tokenize(str(whole), tmp_path / "few", images=40, shard_size=15, batch_size=7)
    some = folder.load()
    assert some.ordinals.tolist() == dataset.ordinals.tolist()
    for part in ("tokens", "labels", "held_out"):
        assert np.array_equal(getattr(some, part), getattr(everything, part)[some.ordinals])
    manifest = json.loads((tmp_path / "few" / "manifest.json").read_text())
    assert (manifest["images"], manifest["available"], manifest["sample_seed"]) == (40, 120, 0)
    refused(whole, "has 120 images, 121 were asked for", images=121)


def test_a_tokenized_sample_names_its_bad_images_by_their_ordinals(tmp_path: Path) -> None:
    whole = sorted_folder(tmp_path / "d")
    ordinals = DatasetSpec(str(whole), images=40).open().ordinals.tolist()
    put(whole / "ab"[ordinals[20] // 60] / f"{ordinals[20]:03d}.png", b"torn")
    folder = tokenize(str(whole), tmp_path / "t", images=40, shard_size=15)
    assert list(folder.bad()) == [ordinals[20]]
    assert folder.load().ordinals.tolist() == ordinals[:20] + ordinals[21:]
    assert f"{ordinals[20]:03d}.png" in (tmp_path / "t" / "bad.jsonl").read_text()


def test_what_was_asked_for_is_kept_and_opens_the_same_images_again(tmp_path: Path) -> None:
    whole = sorted_folder(tmp_path / "d", 10)
    folder = tokenize(str(whole), tmp_path / "t")
    assert folder.manifest.dataset == DatasetSpec(str(whole))
    assert TokenFolder.open(tmp_path / "t").manifest == folder.manifest
    originals = Originals([folder])
    assert originals.picture((0, 3)) is not None
    put(whole / "a" / "000.png", picture(99))
    assert Originals([folder]).picture((0, 3)) is None  # no longer the data set that was tokenized


def test_every_command_that_names_a_data_set_has_the_same_options() -> None:
    options = ["--split", "s", "--images", "7", "--image-column", "i", "--label-column", "l"]
    asked = DatasetOptions(split="s", images=7, image_column="i", label_column="l")
    one = tyro.cli(tokenize_fast.Config, args=["--dataset", "d", *options])
    assert one.dataset == DatasetSpec.of_each(["d"], asked)[0]
    several: tuple[Any, ...] = (overnight_run.Config, train_tiny_flextok.Config)
    for config in several:
        assert tyro.cli(config, args=options).each == asked
    plan = overnight_run.make_plans(overnight_run.Config(dataset=("a", "b"), each=asked))[0]
    assert plan.data == DatasetSpec.of_each(["a", "b"], asked)
