"""Pictures of a run: as many as asked for, or as there are."""

from pathlib import Path

import numpy as np
import pytest

from imagegram.generating import Decoder, Request, decode
from imagegram.samplers import Aligned, Samples
from imagegram.samplers.draw import Draw
from tests.support.fake_codec import FakeCodec
from tests.test_scripts import build, run_generate, run_tokenize


def test_fewer_sequences_than_pictures_asked_for_are_all_shown() -> None:
    codec = FakeCodec()
    tokens = np.zeros((5, codec.tokens_per_image), np.uint16)
    samples = Samples(tokens, np.zeros((*tokens.shape, 2), np.int64))
    pictures, seeds = decode(Decoder(codec, 1, 1.0), samples, Request(Draw(Aligned()), sequences=9, decoded=9, seed=2))
    assert len(pictures) == len(seeds) == 5
    assert seeds.tolist() == [2_000_000 + i for i in range(5)]


def test_without_held_out_images_a_sampler_is_fitted_all_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("imagegram.samplers.kernel.fit.STEPS", 2)
    assert run_tokenize("--images", "30", "--held-out-share", "0", "--out", str(tmp_path / "tokens")) == 0
    assert build(tmp_path, tmp_path / "tokens").returncode == 0
    capsys.readouterr()
    asked = ["--sequences", "8", "--decoded", "0"]
    assert run_generate("--index", str(tmp_path / "index"), *asked, "--out", str(tmp_path / "made")) == 0
    printed = capsys.readouterr().out
    assert printed.count("no held-out images:") == 1
    assert "closer_than_held_out: -\n" in printed
    assert "training_bits: -" not in printed
