"""Classifiers tell real images from the baseline, held-out ones stand at 1, halves keep apart."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from imagegram.data.scenes import scene
from imagegram.metrics import coherence
from imagegram.metrics.coherence import (
    Classifier,
    Classifiers,
    _coherence,
    _inside,
    open_classifiers,
    seen,
)
from imagegram.metrics.held_out import HeldOut
from imagegram.tokens import Prefixes
from tests.support.corpora import index_of
from tests.support.fake_codec import FakeCodec


def pictures(seed: int, n: int) -> Tensor:
    images = np.stack([scene(seed, i)[0] for i in range(n)])
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()


def noise(n: int, seed: int) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, 3, 32, 32), dtype=torch.uint8, generator=rng)


REAL, LABELS = pictures(5, 120), np.array([scene(5, i)[1] for i in range(120)])


def train(labels: NDArray[np.int64]) -> Classifiers:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(coherence, "STEPS", 25)
        return Classifiers.train(REAL, labels, noise(120, 0))


@pytest.fixture(scope="module")
def classifiers() -> Classifiers:
    return train(LABELS)


def test_coherence_is_1_for_real_images_and_0_for_the_baseline(classifiers: Classifiers) -> None:
    rng = np.random.default_rng(0)
    fresh = pictures(6, 60)
    real, baseline, both = (
        classifiers.measure(images, rng)
        for images in (fresh, noise(60, 1), torch.cat([fresh[:30], noise(30, 2)]))
    )
    assert real["generated"]["coherence"].value == pytest.approx(1, abs=0.15)
    assert baseline["generated"]["coherence"].value == pytest.approx(0, abs=0.15)
    assert both["generated"]["coherence"].value == pytest.approx(0.5, abs=0.15)
    assert real["held_out"]["coherence"].value == pytest.approx(1)
    # Of two sets of one kind it is 1.
    assert real["held_out"]["density"].value == pytest.approx(1, abs=0.5)
    for name in ("density", "coverage"):
        mine = real["generated"][name].value
        assert mine > 3 * baseline["generated"][name].value
        assert real["held_out"][name].value == pytest.approx(mine, rel=0.35)


def test_without_labels_real_images_are_told_from_the_baseline() -> None:
    figures = train(np.full(120, -1)).measure(noise(60, 1), np.random.default_rng(0))
    assert figures["generated"]["coherence"].value == pytest.approx(0, abs=0.15)


def test_saved_classifiers_give_the_same_figures(classifiers: Classifiers, tmp_path: Path) -> None:
    path = tmp_path / "sub" / "classifiers.pt"
    classifiers.save(path, "key")
    assert Classifiers.load(path, "another key") is None
    assert Classifiers.load(tmp_path / "missing.pt", "key") is None
    again = Classifiers.load(path, "key")
    assert again is not None
    one, two = (j.measure(noise(20, 1), np.random.default_rng(0)) for j in (classifiers, again))
    assert one == two


def test_classifiers_are_asked_about_the_half_that_is_new_to_them(classifiers: Classifiers) -> None:
    for number, view in enumerate(classifiers.real):
        unseen = seen(REAL[1 - number :: 2])
        scores = classifiers.nets[number](unseen).softmax(1)[:, :-1].amax(1)
        assert np.allclose(view.scores, scores.detach(), atol=1e-5)


def test_more_images_do_not_cover_more(classifiers: Classifiers) -> None:
    """The first thirty are noise, which covers little; thirty real ones after them would."""
    images = torch.cat([noise(30, 3), pictures(6, 30)])
    few, many = (
        classifiers.measure(some, np.random.default_rng(0))["generated"]
        for some in (images[:30], images)
    )
    assert len(classifiers.real[0].scores) == 60  # half of them are unknown to a classifier
    assert few["coverage"].value == many["coverage"].value
    assert few["density"].value != many["density"].value


def test_balls_agree_with_brute_force() -> None:
    rng = np.random.default_rng(1)
    reference, candidates = rng.normal(size=(30, 3)), rng.normal(size=(20, 3))
    inside = _inside(candidates, reference)
    for r in range(30):
        radius = sorted(np.linalg.norm(reference - reference[r], axis=1))[5]  # itself is the first
        near = np.linalg.norm(candidates - reference[r], axis=1) <= radius
        assert inside[:, r].tolist() == near.tolist()


def test_coherence_of_few_images_cannot_be_told() -> None:
    """Of one image a classifier is sure, of the other not: the interval is as wide as can be."""
    real, baseline = np.full(50, 0.6), np.full(50, 0.5)
    told = _coherence(np.array([0.9, 0.1]), real, baseline, np.random.default_rng(0))
    assert told == {"cannot_be_told": {"coherence": 2}}
    assert "coherence" in _coherence(np.full(30, 0.55), real, baseline, np.random.default_rng(0))


class Changed(FakeCodec):
    """A codec whose decoding remembers how it was asked."""

    def __init__(self, **changes: Any):
        super().__init__(**changes)
        self.asked: set[tuple[int, float]] = set()

    def decode(self, tokens: Prefixes, seeds: Sequence[int], *how: Any) -> Tensor:
        self.asked.add(how)
        return noise(len(tokens), int(tokens[0][0]))


def test_classifiers_are_trained_anew_whenever_anything_they_depend_on_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coherence, "train_classifier", lambda *data, **how: Classifier(4).eval())
    monkeypatch.setattr(Classifiers, "_views", lambda self, images: [])  # nobody asks what they see
    rng = np.random.default_rng(0)
    index, another = (
        index_of(tmp_path / name, rng.integers(0, 500, (60, 4)), vocab_size=500) for name in "ab"
    )
    tokens = rng.integers(0, 500, (40, 4)).astype(np.uint16)
    held_out = HeldOut(tokens, np.arange(40) % 3, np.zeros((40, 2), np.int64))
    codec = Changed()
    usual: dict[str, Any] = {"index": index, "held_out": held_out, "codec": codec, "length": 4}
    said: list[object] = []
    monkeypatch.setattr("builtins.print", said.append)

    def trained(**changes: Any) -> bool:
        before = len(said)
        assert open_classifiers(**usual | changes)
        return len(said) > before

    assert trained()
    assert not trained()
    assert codec.asked == {(codec.timesteps, codec.guidance_scale)}
    for change in (
        {"codec": Changed(revision="2")},
        {"codec": Changed(name="another")},
        {"codec": Changed(precision="bfloat16")},
        {"codec": Changed(timesteps=7)},
        {"codec": Changed(guidance_scale=2.0)},
        {"held_out": replace(held_out, tokens=held_out.tokens[::-1])},
        {"held_out": replace(held_out, labels=held_out.labels[::-1])},
        {"index": replace(another, path=index.path)},  # kept in the same place
        {"length": 3},
    ):
        assert trained(**change), change
        assert not trained(**change), change
        assert trained() or "length" in change  # those of another length are kept beside them
    for constant in ("STEPS", "MOST", "BATCH", "SEED", "SIDE", "FIGURES_VERSION"):
        with monkeypatch.context() as patch:
            patch.setattr(coherence, constant, getattr(coherence, constant) + 1)
            assert trained(), constant
        assert trained(), constant
