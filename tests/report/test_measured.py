"""Anyone's pictures are measured by a command: copies are seen, wrong input is one line."""

import csv
import json
import os
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits

from imagegram.metrics.features import efficientnet
from imagegram.metrics.instrument import Measured, answer
from imagegram.metrics.intervals import Figure
from imagegram.metrics.registry import BY_KEY
from tests.support.metrics import one_line, run

Pixels = NDArray[np.uint8]
NO_NETWORK = "--no-network"
NETWORK = find_spec("efficientnet_lite_pytorch")


@pytest.fixture(scope="module")
def digits() -> Pixels:
    """Handwritten digits, uint8 [n, 8, 8], in random order."""
    return (load_digits().images[np.random.default_rng(0).permutation(1797)] * 15).astype(np.uint8)


@pytest.fixture
def sets(tmp_path: Path, digits: Pixels) -> Path:
    """300 training images, 160 held-out ones, samples: `fifth` copies a fifth, `real` nothing."""
    real = digits[500:580]
    known = {"training": digits[:300], "held_out": digits[300:460], "real": real}
    for name, images in (known | {"fifth": np.concatenate([digits[:16], real[:64]])}).items():
        np.savez(tmp_path / f"{name}.npz", images=images)
    return tmp_path


def written(sets: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((sets / "out" / "figures.json").read_text())
    return found


def asked(sets: Path, samples: str, *more: Any) -> list[Any]:
    """The command line for these sets, without the network unless `more` says so."""
    held_out = ["--training", sets / "training.npz", "--held-out", sets / "held_out.npz"]
    return ["pictures", sets / f"{samples}.npz", *held_out, "--out", sets / "out", *more]


def test_a_generator_that_copies_a_fifth_is_seen_and_real_images_are_not_accused(
    sets: Path, digits: Pixels, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*asked(sets, "fifth", NO_NETWORK)) == 0
    copied = "near-duplicates 20.0 % (12.7 to 30.0), of held-out real ones 0 %"
    assert f"Some of these pictures are copies: {copied}" in capsys.readouterr().out
    record = written(sets)
    assert record["images"] == 80
    assert record["training_images"] == 300
    f_mem = record["figures"]["pixels"]["generated"]["f_mem"]
    assert f_mem["low"] > 0.15 or f_mem["value"] == pytest.approx(0.2, abs=0.03)
    # row i of the samples is row i of the training images: the worst come first
    for row in list(csv.DictReader((sets / "out" / "images.csv").open()))[:16]:
        assert row["image"] == row["nearest"]
        assert float(row["calibrated"]) == 0
    page = (sets / "out" / "report.html").read_text()
    assert "Some of these pictures are copies" in page
    assert page.count("<li><figure>") == 80 + 12
    assert str(sets) not in page

    assert run(*asked(sets, "fifth", NO_NETWORK)) == 0
    assert "nothing to do" in capsys.readouterr().out

    assert run(*asked(sets, "real", NO_NETWORK)) == 0
    assert "No copies are seen among 80 pictures" in capsys.readouterr().out
    assert written(sets) != record


def test_the_same_seed_gives_the_same_bytes(sets: Path, digits: Pixels) -> None:
    np.savez(sets / "held_out.npz", images=digits[300:375])  # two halves of 37, and one over
    assert run(*asked(sets, "fifth", NO_NETWORK)) == 0
    before = (sets / "out" / "figures.json").read_bytes()
    assert json.loads(before)["images"] == 37
    (sets / "out" / "report.html").unlink()
    assert run(*asked(sets, "fifth", NO_NETWORK)) == 0
    assert (sets / "out" / "figures.json").read_bytes() == before


def test_only_what_lies_outside_the_interval_of_held_out_pictures_is_said() -> None:
    def said(**figures: tuple[Figure | None, Figure | None]) -> str:
        none = {"near_duplicates": 0.04, "calibrated": 0.05, "f_mem": 0.03}
        sides = [{key: Figure(0, 0, high) for key, high in none.items()} for _ in range(2)]
        for key, pair in figures.items():
            for side, figure in zip(sides, pair, strict=True):
                side.update({key: figure} if figure else {})
        found = {"pixels": dict(zip(("generated", "held_out"), sides, strict=True))}
        return "\n".join(answer(Measured(found, {}, images=80, training=300, datasets={})))

    low, middle, high = Figure(1, 0, 2), Figure(2, 1, 3), Figure(5, 4, 6)
    nothing = "No copies are seen among 80 pictures; a share below 3.0 % could be missed.\n"
    nothing += "What else tells them from held-out real pictures: nothing."
    assert said() == said(c_t=(None, low), fd=(low, middle), authentic=(high, None)) == nothing
    assert said(near_duplicates=(low, high)) == nothing  # fewer than real pictures are
    copies = said(near_duplicates=(high, low))
    assert copies.startswith("Some of these pictures are copies: near-duplicates ")
    assert "So say near-duplicates in pixels." in copies
    too_close = {"c_t": (low, high), "authentic": (low, high), "closer_than_held_out": (high, low)}
    for key, (mine, real) in too_close.items():
        title = BY_KEY[key].title
        assert f"images than real ones do: {title} in pixels." in said(**{key: (mine, real)})
        assert f"held-out real pictures: {title} in pixels." in said(**{key: (real, mine)})
    assert f"{BY_KEY['fd'].title} in pixels." in said(fd=(low, high))


def test_features_of_ones_own_are_a_space(sets: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    own = {"fifth": 80, "training": 300, "held_out": 160}
    arrays = {name: rng.standard_normal((rows, 10)) for name, rows in own.items()}
    # half of the samples are copies in these features
    arrays["fifth"][40:] = arrays["training"][:40]
    paths = {name: sets / f"{name}.npy" for name in own}
    for name, array in arrays.items():
        np.save(paths[name], array)
    options = ["--features", paths["fifth"], "--training-features", paths["training"]]
    options += ["--held-out-features", paths["held_out"]]
    assert run(*asked(sets, "fifth", NO_NETWORK, *options)) == 0
    figures = written(sets)["figures"]["own features"]
    assert figures["generated"]["f_mem"]["value"] == 0.5
    assert figures["held_out"]["f_mem"]["value"] == 0
    capsys.readouterr()

    training = arrays["training"]
    training[7, 3] = np.nan
    for array, given, message in (
        (training, options, "1 of 300 rows hold no finite numbers (NaN)"),
        (training[1:], options, "a row of numbers for each of the 300 pictures"),
        (training, options[:2], "belong together"),
    ):
        np.save(paths["training"], array)
        assert run(*asked(sets, "real", NO_NETWORK, *given)) == 1
        assert message in one_line(capsys)


def test_wrong_input_is_one_line(
    sets: Path, digits: Pixels, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    both = ["pictures", sets / "real.npz", "--training", sets / "training.npz", NO_NETWORK]

    def said(held_out: str, *words: Any) -> str:
        named = ["--held-out", sets / f"{held_out}.npz"] if held_out else []
        assert run(*both, *named, *words, "--out", sets / "wrong") == 1
        return one_line(capsys)

    np.savez(sets / "few.npz", images=digits[600:639])
    np.savez(sets / "large.npz", images=digits[600:700].repeat(2, 1).repeat(2, 2))
    assert "--held-out is missing" in said("")
    assert "no data set at" in said("nowhere")
    assert "are the same data set" in said("training")
    assert "39 pictures: fewer than 40" in said("few")
    sizes = r".*real.npz, row \d+, has 8 x 8 pixels, .*large.npz, row \d+, 16 x 16"
    assert re.search(f"different sizes: {sizes}", said("large"))
    assert "--images is at least 20" in said("held_out", "--images", 5)
    with monkeypatch.context() as patch:
        patch.setattr("imagegram.metrics.instrument.memory_available", lambda: 1_000_000)
        assert "need 0.0 GB of memory: give a part" in said("held_out")
    assert not (sets / "wrong" / "figures.json").exists()
    sized = ["--held-out", sets / "large.npz", "--size", 8, "--out", sets / "sized"]
    assert run(*both, *sized) == 0


def test_folders_and_pictures_that_cannot_be_read(
    sets: Path, digits: Pixels, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = sets / "folder"
    folder.mkdir()
    for i, image in enumerate(digits[500:550]):
        Image.fromarray(image).save(folder / os.fsdecode(b"%03d\xff.png" % i))  # no UTF-8
    (folder / os.fsdecode(b"049\xff.png")).write_bytes(b"no picture")
    assert run("pictures", folder, *asked(sets, "real", NO_NETWORK)[2:]) == 0
    assert "1 pictures cannot be read and are left out" in capsys.readouterr().out
    assert written(sets)["images"] == 49


@pytest.mark.skipif(
    not NETWORK, reason="EfficientNet-Lite0 is not installed (requirements-features.txt)"
)
def test_efficientnet_knows_its_classes() -> None:
    """A flat and a checkered picture differ; features of a picture do not depend on its batch."""
    import torch

    network = efficientnet()
    assert network
    flat = torch.full((1, 3, 32, 32), 128, dtype=torch.uint8)
    checkered = (torch.arange(32)[:, None] // 8 + torch.arange(32) // 8) % 2 * 255
    images = torch.cat([flat, checkered.byte().expand(1, 3, 32, 32)])
    found = network(images)
    assert found.shape == (2, 1280)
    assert np.abs(found[0] - found[1]).mean() > 0.05
    assert found[1] == pytest.approx(network(images[1:])[0], abs=1e-4)


def test_without_the_network_a_line_says_how_to_get_it(
    sets: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("imagegram.metrics.features.efficientnet", lambda: None)

    def said() -> str:
        assert run(*asked(sets, "real", "--images", 20)) == 0
        return capsys.readouterr().out

    assert "requirements-features.txt" in said()
    assert "nothing to do" in said()
    other = None if NETWORK else "it"  # installed, or gone, in the meantime
    monkeypatch.setattr("imagegram.report.measured.find_spec", lambda name: other)
    assert "nothing to do" not in said()
