"""Perfect and flat rebuilt images are told apart, and the result is kept with its inputs."""

import tracemalloc
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image

from imagegram.data.scenes import scene
from imagegram.metrics import fidelity
from imagegram.metrics.coherence import Classifiers
from imagegram.metrics.fidelity import Fidelity, edges_and_colours, open_fidelity, read_fidelity
from imagegram.metrics.held_out import HeldOut
from imagegram.metrics.intervals import Figure, wilson
from tests.support.corpora import index_of

N = 60  # held-out images


def original(place: tuple[int, ...]) -> Image.Image:
    return Image.fromarray(scene(5, place[1])[0])


@pytest.fixture
def measured(tmp_path: Path):  # type: ignore[no-untyped-def]
    """From rebuilt images uint8 [N, 3, S, S] to what is said of them; originals are scenes."""
    index = index_of(tmp_path, np.random.default_rng(0).integers(0, 500, (300, 4)), vocab_size=500)
    images = np.array(index.images)
    images[:, 2] = [scene(5, int(ordinal))[1] for ordinal in images[:, 1]]
    index = replace(index, images=images)
    ordinals = range(1000, 1000 + N)
    scenes, labels = zip(*(scene(5, i) for i in ordinals), strict=True)
    origins = np.array([(0, i) for i in ordinals])
    held_out = HeldOut(np.zeros((N, 4), np.uint16), np.array(labels), origins)

    def measure(rebuilt: Any, key: str = '{"index": "%s"}', read: Any = original) -> Any:
        classifiers = SimpleNamespace(real_images=rebuilt, key=key % index.identity)
        return open_fidelity(index, held_out, cast("Classifiers", classifiers), read)

    measure.index = index  # type: ignore[attr-defined]
    real = torch.from_numpy(np.stack(scenes)).permute(0, 3, 1, 2)
    measure.real = real  # type: ignore[attr-defined]
    return measure


def test_a_perfect_tokenizer_keeps_everything_and_a_flat_one_little(measured: Any) -> None:
    perfect = measured(measured.real)
    assert perfect.error.value == 0
    assert perfect.told == perfect.told_of_originals
    assert perfect.told.value > 0.5  # of ten classes of scenes
    assert not perfect.is_little
    flat = measured.real.float().mean((2, 3), keepdim=True).expand(-1, -1, 32, 32).to(torch.uint8)
    rebuilt = measured(flat, '{"index": "%s", "revision": "flat"}')
    # the mean is rounded
    assert rebuilt.error.value == pytest.approx(rebuilt.flat_error.value, abs=0.6)
    assert rebuilt.told.high < rebuilt.told_of_originals.low
    assert rebuilt.is_little


def test_it_is_kept_until_an_input_changes(measured: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    first = measured(measured.real)
    dark = measured.real // 2
    assert measured(dark) == first == read_fidelity(measured.index)
    assert measured(dark, '{"index": "%s", "revision": "2"}') != first
    for constant in ("FIGURES_VERSION", "MOST_TRAINING"):
        monkeypatch.setattr(fidelity, constant, getattr(fidelity, constant) - 1)
        assert measured(measured.real).error.value == 0, constant
        assert measured(dark).error.value == 0, constant
    assert read_fidelity(replace(measured.index, identity="another")) is None


def test_nothing_is_said_where_the_originals_are_gone(measured: Any) -> None:
    assert measured(measured.real, read=lambda place: None) is None


def test_little_is_kept_where_the_interval_says_so() -> None:
    good = Fidelity(Figure(20, 18, 22), Figure(80, 70, 90), wilson(90, 100), wilson(95, 100))
    assert not good.is_little
    assert replace(good, error=Figure(45, 41, 49)).is_little
    assert not replace(good, error=Figure(45, 39, 51)).is_little
    assert replace(good, told=wilson(52, 100)).is_little
    assert not replace(good, told=None, told_of_originals=None).is_little
    said = "off by 20.0 of 255 grey levels (80.0 without any detail); a classifier tells 90.0 % ("
    assert str(good).startswith(said)


def test_edges_have_the_direction_of_the_brightness() -> None:
    """One ramp to the right, one downwards: each image has one angle in all cells."""
    ramp = np.broadcast_to(np.arange(32.0)[None, :, None], (32, 32, 3))
    features = edges_and_colours(np.stack([ramp, ramp.transpose(1, 0, 2)])).reshape(2, 16, -1)
    angles = features[:, :, : fidelity.ANGLES].sum(1).argmax(1)
    assert (features[:, :, : fidelity.ANGLES].sum(1) > 0).sum(1).tolist() == [1, 1]
    assert (angles[1] - angles[0]) % fidelity.ANGLES == fidelity.ANGLES // 4
    levels = features[0, :, -1].reshape(4, 4).mean(0) * 255
    assert levels == pytest.approx([3.5, 11.5, 19.5, 27.5])


def test_large_pictures_are_looked_at_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """60 pictures of 256 x 256 pixels are 0.9 GB as maps of edges."""
    scenes, labels = zip(*(scene(5, i, 256) for i in range(60)), strict=True)
    pictures = [Image.fromarray(each) for each in scenes]
    tracemalloc.start()
    told = fidelity.tell(pictures, np.array(labels), pictures)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (told == labels).mean() > 0.9
    assert most < 0.4e9
    monkeypatch.setattr(fidelity, "AT_ONCE", 7)
    assert (fidelity.tell(pictures, np.array(labels), pictures[:15]) == told[:15]).all()
