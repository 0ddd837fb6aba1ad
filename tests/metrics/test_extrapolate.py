"""The prediction of a token folder: exact now, and true with ten times the images."""

import json
import re
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from imagegram.cli import UserError
from imagegram.metrics import extrapolate
from imagegram.metrics.counting import copy_figures
from imagegram.metrics.extrapolate import advice, cliff, cliff_in_words, copy_curves, predict
from imagegram.samplers import Aligned, Ntd, Sampler
from tests.support.corpora import index_of, token_folder


def images(n: int, seed: int) -> NDArray[np.uint16]:
    """Eight tokens of 40, a Markov chain; some images are drawn from few tokens and meet often."""
    rng = np.random.default_rng(seed)
    often = rng.random(n) ** 2  # how many tokens an image is drawn from
    rows, token = np.zeros((n, 8), np.uint16), np.zeros(n, np.int64)
    for i in range(8):
        token = (token * 7 + i + (rng.random(n) * (2 + 38 * often)).astype(np.int64)) % 40
        rows[:, i] = token
    return rows


def test_ten_times_the_images_do_what_was_predicted() -> None:
    more = images(8000, 0)
    errors = []
    for curve in copy_curves(more[:800], 4):
        assert curve.law is not None
        counted, truth = (
            copy_figures(rows, [curve.context], aligned=curve.sampler == "aligned")[curve.context]
            for rows in (more[:800], more)
        )
        assert curve.law.parameters[0] == pytest.approx(np.log(counted.competitors / 2), abs=0.5)
        errors.append(abs(curve.at(8000).value - np.exp(truth.log_copy)))
    assert len(errors) == 8
    assert max(errors) < 0.1


def test_a_folder_is_predicted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = images(400, 1)
    figures = predict(token_folder(tmp_path / "tokens", rows), 3)
    said = capsys.readouterr().out

    index = index_of(tmp_path / "index", rows)
    distinct = np.unique(rows, axis=0)
    two = figures["aligned_two_images"]
    assert set(two) == {1, 2, 3}
    told: list[tuple[Sampler, float]] = [
        (Aligned(context=context, min_images=2), chance) for context, chance in two.items()
    ]
    kinds: dict[str, Any] = {"ntd": Ntd, "aligned": partial(Aligned, min_images=1)}
    for each in figures["copy_probability"]:
        told.append((kinds[each["sampler"]](context=each["context"]), each["now"]))
    for sampler, chance in told:
        assert chance == pytest.approx(sampler.probabilities(index, distinct).prod(1).sum())
    assert json.loads((tmp_path / "tokens" / "prediction.json").read_text())["images"] == 400
    assert (tmp_path / "tokens" / "prediction.png").stat().st_size > 10_000
    tokens, _ = extrapolate.indexed_tokens(tmp_path / "tokens", 0, np.random.default_rng(0))
    for curve, each in zip(copy_curves(tokens, 3), figures["copy_probability"], strict=True):
        if needed := each["images_for_10_percent"]:
            assert curve.at(needed).value == pytest.approx(0.1, rel=1e-3)
    assert any(each["images_for_10_percent"] for each in figures["copy_probability"])
    assert "400 images of 8 tokens of 512" in said
    table = said.partition("bits a token by position")[2]
    positions = re.findall(r"^ +(\d+) +\d+\.\d\d +\d", table, re.MULTILINE)
    assert positions[:4] == ["1", "2", "4", "8"]
    assert "Take the sampler kernel" in said


def test_a_codec_without_codes_is_given_a_sampler_that_does_not_copy(tmp_path: Path) -> None:
    figures = predict(token_folder(tmp_path / "tokens", images(400, 1), vocab_size=1000), 2)
    assert "Take aligned --context" in figures["advice"][1]
    found = {"copy_probability": [], "images": 400, "aligned_two_images": {1: 0.01, 2: 0.3}}
    assert "Take the sampler smoothed" in advice(found, has_codes=False)[-1]
    found["aligned_two_images"] = {1: 0.0099, 2: 0.3}
    assert "Take aligned --context 1 " in advice(found, has_codes=False)[-1]


def test_missing_shards_are_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = token_folder(tmp_path / "tokens", images(1500, 1))
    (folder / "shard-00001.json").unlink()
    assert predict(folder, 1)["images"] == 1000
    assert "1 of 2 shards are finished" in capsys.readouterr().out


def test_what_cannot_be_predicted_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = token_folder(tmp_path / "tokens", images(300, 1))
    need = 300 * 8 * 90  # bytes
    for asked, memory, message in (
        ((1, 301), need, "301 were asked for"),
        ((1, 99), need, "too few"),
        ((0,), need, "at least 1"),
        ((1,), need - 1, "take --images 239"),
    ):
        monkeypatch.setattr(
            "imagegram.metrics.extrapolate.memory_available", lambda memory=memory: memory
        )
        with pytest.raises(UserError, match=message):
            predict(folder, *asked)
    assert not list(tmp_path.rglob("prediction*"))
    assert predict(folder, 1, images=100)["images"] == 100
    monkeypatch.setattr("imagegram.metrics.extrapolate.memory_available", lambda: need)
    assert predict(folder, 1)["images"] == 300


def test_tokens_that_never_meet_are_certain_to_be_copied(tmp_path: Path) -> None:
    rows = np.arange(200 * 4).reshape(200, 4)
    figures = predict(token_folder(tmp_path / "tokens", rows, vocab_size=1000), 2)
    last = figures["copy_probability"][-1]
    assert last["now"] == pytest.approx(1)
    assert last["images_for_10_percent"] is None
    assert figures["bits_by_position"][0]["collision"] is None


def test_the_entropy_cliff_stands_beside_its_law(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(4)
    even = rng.integers(0, 512, (300, 8))
    found = predict(token_folder(tmp_path / "even", even), 1)["entropy_cliff"]
    said = capsys.readouterr().out
    assert found["law"] == 1  # 8.2 bits of images, 9 of a token
    assert found["settled_from"] == 3  # 7.7 bits of 8.2 in the first, the rest in the second
    assert found["bits_by_position"][2] == 0
    settled = "The first 2 tokens settle which image it is: from token 3 on the next one is known"
    assert settled in said
    assert "after t* = ceil(log2 300 / log2 512) = 1." in said

    # Levels that grow, as the paper's cure: the same images are settled later.
    grown = np.stack([rng.integers(0, min(512, 2 ** (1 + i // 3)), 300) for i in range(8)], 1)
    found = predict(token_folder(tmp_path / "grown", grown), 1)["entropy_cliff"]
    assert found["settled_from"] > 6
    assert found["bits_by_position"][0] == pytest.approx(1, abs=0.01)

    first = cliff_in_words(found | {"settled_from": 2}, 300, 512)[0]
    assert first.startswith("The first 1 token settles which image it is: from token 2 on")
    assert cliff(np.zeros((200, 8), np.uint16), 512, {1: 3.0})["critical_context"] is None
    # 11.2 bits of places
    assert cliff(even.astype(np.uint16), 512, {1: 9.0, 2: 18.0})["critical_context"] == 2
