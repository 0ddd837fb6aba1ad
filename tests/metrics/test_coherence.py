"""The judges tell real images from chaos, the control stands at 1, and both halves keep apart."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from imagegram.data.scenes import scene
from imagegram.metrics import coherence
from imagegram.metrics.coherence import Judges, K, _inside

REAL, LABELS = zip(*(scene(5, i) for i in range(120)), strict=True)


def pictures(arrays: tuple[np.ndarray, ...]) -> Tensor:
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).contiguous()


def noise(n: int, seed: int) -> Tensor:
    return torch.randint(0, 256, (n, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def judges() -> Judges:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(coherence, "STEPS", 25)
        return Judges.train(pictures(REAL), np.array(LABELS), noise(120, 0))


def test_coherence_is_one_for_real_images_and_zero_for_chaos(judges: Judges) -> None:
    rng = np.random.default_rng(0)
    fresh = pictures(tuple(scene(6, i)[0] for i in range(60)))
    real, chaos, both = (
        judges.measure(images, rng) for images in (fresh, noise(60, 1), torch.cat([fresh[:30], noise(30, 2)]))
    )
    assert real["generated"]["coherence"]["value"] == pytest.approx(1, abs=0.15)
    assert chaos["generated"]["coherence"]["value"] == pytest.approx(0, abs=0.15)
    assert both["generated"]["coherence"]["value"] == pytest.approx(0.5, abs=0.15)
    assert real["held_out"]["coherence"]["value"] == pytest.approx(1)
    for name in ("density", "coverage"):
        assert real["generated"][name]["value"] > 3 * chaos["generated"][name]["value"]
        assert real["held_out"][name]["value"] == pytest.approx(real["generated"][name]["value"], rel=0.35)


def test_without_labels_the_judges_tell_real_from_chaos() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(coherence, "STEPS", 25)
        judges = Judges.train(pictures(REAL), np.full(120, -1), noise(120, 0))
    figures = judges.measure(noise(60, 1), np.random.default_rng(0))
    assert figures["generated"]["coherence"]["value"] == pytest.approx(0, abs=0.15)


def test_saved_judges_judge_the_same(judges: Judges, tmp_path: Path) -> None:
    path = tmp_path / "sub" / "judges.pt"
    judges.save(path, "key", pictures(REAL), noise(120, 0))
    assert Judges.load(path, "another key") is None
    assert Judges.load(tmp_path / "missing.pt", "key") is None
    again = Judges.load(path, "key")
    assert again is not None
    one, two = (j.measure(noise(20, 1), np.random.default_rng(0)) for j in (judges, again))
    assert one == two


def test_the_control_is_what_a_judge_was_not_trained_on(judges: Judges) -> None:
    for number, view in enumerate(judges.real):
        expected = judges._view(judges.nets[number], pictures(REAL)[1 - number :: 2])
        assert np.array_equal(view.scores, expected.scores)


def test_more_images_do_not_cover_more(judges: Judges) -> None:
    fresh = pictures(tuple(scene(6, i)[0] for i in range(60)))
    few, many = (judges.measure(images, np.random.default_rng(0)) for images in (fresh[:30], fresh))
    assert len(judges.real[0].scores) == 60  # a judge's control has half of them
    assert few["generated"]["coverage"]["value"] == many["generated"]["coverage"]["value"]
    assert few["generated"]["density"]["value"] != many["generated"]["density"]["value"]


def test_balls_agree_with_brute_force() -> None:
    rng = np.random.default_rng(1)
    reference, candidates = rng.normal(size=(30, 3)), rng.normal(size=(20, 3))
    for r in range(30):
        radius = sorted(np.linalg.norm(reference - reference[r], axis=1))[K]
        for c in range(20):
            assert _inside(candidates, reference)[c, r] == (np.linalg.norm(candidates[c] - reference[r]) <= radius)
