"""The classifiers tell real images from the baseline, held-out ones stand at 1, and both halves
keep apart."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from imagegram.data.scenes import scene
from imagegram.index.folder import Index
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

REAL, LABELS = zip(*(scene(5, i) for i in range(120)), strict=True)


def pictures(arrays: tuple[np.ndarray, ...]) -> Tensor:
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).contiguous()


def noise(n: int, seed: int) -> Tensor:
    return torch.randint(
        0, 256, (n, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed)
    )


@pytest.fixture(scope="module")
def classifiers() -> Classifiers:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(coherence, "STEPS", 25)
        return Classifiers.train(pictures(REAL), np.array(LABELS), noise(120, 0))


def test_coherence_is_one_for_real_images_and_zero_for_the_baseline(
    classifiers: Classifiers,
) -> None:
    rng = np.random.default_rng(0)
    fresh = pictures(tuple(scene(6, i)[0] for i in range(60)))
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
        assert real["generated"][name].value > 3 * baseline["generated"][name].value
        assert real["held_out"][name].value == pytest.approx(
            real["generated"][name].value, rel=0.35
        )


def test_without_labels_real_images_are_told_from_the_baseline() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(coherence, "STEPS", 25)
        classifiers = Classifiers.train(pictures(REAL), np.full(120, -1), noise(120, 0))
    figures = classifiers.measure(noise(60, 1), np.random.default_rng(0))
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


def test_held_out_images_are_shown_to_what_a_classifier_was_not_trained_on(
    classifiers: Classifiers,
) -> None:
    for number, view in enumerate(classifiers.real):
        unseen = seen(pictures(REAL)[1 - number :: 2])
        scores = classifiers.nets[number](unseen).softmax(1)[:, :-1].amax(1)
        assert np.allclose(view.scores, scores.detach(), atol=1e-5)


def test_more_images_do_not_cover_more(classifiers: Classifiers) -> None:
    """The first thirty are noise, which covers little; thirty real ones after them would."""
    images = torch.cat([noise(30, 3), pictures(tuple(scene(6, i)[0] for i in range(30)))])
    few, many = (
        classifiers.measure(some, np.random.default_rng(0)) for some in (images[:30], images)
    )
    assert len(classifiers.real[0].scores) == 60  # half of them are unknown to a classifier
    assert few["generated"]["coverage"].value == many["generated"]["coverage"].value
    assert few["generated"]["density"].value != many["generated"]["density"].value


def test_balls_agree_with_brute_force() -> None:
    rng = np.random.default_rng(1)
    reference, candidates = rng.normal(size=(30, 3)), rng.normal(size=(20, 3))
    for r in range(30):
        radius = sorted(np.linalg.norm(reference - reference[r], axis=1))[5]  # itself is the first
        for c in range(20):
            assert _inside(candidates, reference)[c, r] == (
                np.linalg.norm(candidates[c] - reference[r]) <= radius
            )


def test_coherence_of_few_images_cannot_be_told(classifiers: Classifiers) -> None:
    """Two images of which a classifier is sure and not: the interval reaches from the baseline to
    beyond real ones."""
    real, baseline = np.full(50, 0.6), np.full(50, 0.5)
    told = _coherence(np.array([0.9, 0.1]), real, baseline, np.random.default_rng(0))
    assert told == {"cannot_be_told": {"coherence": 2}}
    assert "coherence" in _coherence(np.full(30, 0.55), real, baseline, np.random.default_rng(0))


class Changed(FakeCodec):
    """A codec whose decoding remembers how it was asked."""

    def __init__(self, **changes: Any):
        super().__init__(**changes)
        self.asked: set[tuple[int, float]] = set()

    def decode(
        self, tokens: Prefixes, seeds: Sequence[int], timesteps: int, guidance_scale: float
    ) -> Tensor:
        self.asked.add((timesteps, guidance_scale))
        return noise(len(tokens), int(tokens[0][0]))


def test_classifiers_are_trained_anew_whenever_anything_they_depend_on_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coherence, "train_classifier", lambda *data, **how: Classifier(4).eval())
    monkeypatch.setattr(Classifiers, "_views", lambda self, images: [])  # nobody asks what they see
    rng = np.random.default_rng(0)
    index = index_of(tmp_path / "a", rng.integers(0, 500, (60, 4)), vocab_size=500)
    another = index_of(tmp_path / "b", rng.integers(0, 500, (60, 4)), vocab_size=500)
    other_index = replace(another, path=index.path)  # kept in the same place
    held_out = HeldOut(
        rng.integers(0, 500, (40, 4)).astype(np.uint16),
        np.arange(40) % 3,
        np.zeros((40, 2), np.int64),
    )
    codec = Changed()

    def trained(
        index: Index = index, held_out: HeldOut = held_out, codec: Changed = codec, length: int = 4
    ) -> bool:
        before = len(said)
        monkeypatch.setattr("builtins.print", said.append)
        assert open_classifiers(index, held_out, codec, length)
        return len(said) > before

    said: list[object] = []
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
        {"index": other_index},
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
