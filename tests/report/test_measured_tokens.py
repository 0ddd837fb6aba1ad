"""Tokens of anyone's own are measured without any codec, from .npy to the page."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import generate_images
from imagegram.cli import run_script
from imagegram.index import __main__ as index_command
from tests.support.metrics import one_line, run

Array = NDArray[np.uint16]
LEVELS = np.array([8, 8, 8, 5, 5, 5])
LENGTH = 256  # of FlexTok; most tests take the first SHORT of them
SHORT = 48


def images(n: int, seed: int) -> Array:
    """Sequences as FlexTok's, [n, 256]: each near one of five."""
    digits = np.random.default_rng(7).integers(0, LEVELS, (5, LENGTH, 6))
    rng = np.random.default_rng(seed)
    digits = digits[rng.integers(0, 5, n)] + np.rint(
        0.6 * rng.standard_normal((n, LENGTH, 6))
    ).astype(int)
    return (digits.clip(0, LEVELS - 1) @ np.cumprod([1, *LEVELS[:-1]])).astype(np.uint16)


@pytest.fixture
def arrays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """flextok.npy: 200 sequences; samples.npy: 40, of which ten are copies and five hold half of
    another one;
    whole.npy: 120 of 256 tokens."""
    monkeypatch.chdir(tmp_path)
    training = images(200, 0)[:, :SHORT]
    samples = images(40, 1)[:, :SHORT]
    samples[:10] = training[:10]
    samples[10:15, 12:36] = training[20:25, 12:36]
    np.save(tmp_path / "flextok.npy", training)
    np.save(tmp_path / "samples.npy", samples)
    np.save(tmp_path / "held_out.npy", images(50, 2)[:, :SHORT])
    np.save(tmp_path / "whole.npy", images(120, 3))
    return tmp_path


def test_from_an_npy_to_the_page_in_four_commands_without_a_codec(
    arrays: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    built = ["build", "--tokens", "whole.npy", "--index", "index", "--index-input", "input"]
    assert (
        run_script(index_command.main, index_command.Build | index_command.Verify, None, built) == 0
    )
    assert run("predict", "whole") == 0
    drawn = ["aligned", "--index", "index", "--sequences", "30", "--out", "drawn"]
    assert run_script(generate_images.main, generate_images.Config, None, drawn) == 0
    words = ["tokens", "drawn/tokens.npy", "--training", "index", "--held-out", "whole.npy"]
    assert run(*words, "--out", "page", "--samplers", "aligned") == 0
    figures = json.loads(Path("page/figures.json").read_text())["figures"]
    assert figures["held_out"]["exact_copies"]["value"] > 0.8  # all but a tenth are in the index
    said = capsys.readouterr().out
    assert "whole: the tokens of whole.npy, a tenth of them held out" in said
    assert "holds tokens of no codec: figures alone" in said
    assert np.load("drawn/tokens.npy").shape == (30, LENGTH)
    assert "samples.npy" not in Path("page/report.html").read_text()
    assert "tokens.npy against its training sequences" in Path("page/report.html").read_text()
    assert json.loads(Path("whole/manifest.json").read_text())["levels"] == LEVELS.tolist()


def test_copies_and_runs_are_found_with_their_sources(
    arrays: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        "tokens",
        "samples.npy",
        "--training",
        "flextok.npy",
        "--held-out",
        "held_out.npy",
        "--out",
        "out",
    ]
    assert run(*words, "--samplers", "ntd", "smoothed") == 0
    said = capsys.readouterr().out
    assert "Some of these sequences are copies: exact copies 25.0 %" in said
    record = json.loads(Path("out/figures.json").read_text())
    figures = record["figures"]
    assert figures["generated"]["exact_copies"]["value"] == 0.25
    assert figures["held_out"]["exact_copies"]["value"] == 0
    assert figures["generated"]["near_copies"]["value"] >= 0.25
    for bits in record["bits"].values():  # copies need fewer bits than held-out sequences
        assert bits["sample_bits"]["high"] < bits["held_out_bits"]["low"]
    assert set(record["bits"]) == {"ntd", "smoothed"}

    sources = np.load("out/sources.npy")
    training = np.load("flextok.npy")
    assert sources[:10, :, 0].tolist() == [[row] * SHORT for row in range(10)]
    assert (sources[10:15, 12:36, 0] == np.arange(20, 25)[:, None]).all()
    assert (sources[:10, :, 1] == np.arange(SHORT)).all()
    known = sources[..., 0] >= 0
    assert (training[sources[..., 0], sources[..., 1]] == np.load("samples.npy"))[known].all()
    assert run(*words, "--samplers", "ntd", "smoothed") == 0
    assert "nothing to do" in capsys.readouterr().out


def test_pictures_are_shown_where_a_function_decodes(
    arrays: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("mine.py").write_text(
        "import numpy as np\n"
        "def decode(tokens):\n"
        "    grey = (tokens[:, :36] % 256).astype(np.uint8).reshape(-1, 1, 6, 6)\n"
        "    return grey.repeat(3, 1)\n"
        "def wrong(tokens):\n"
        "    return tokens\n"
    )
    words = [
        "tokens",
        "samples.npy",
        "--training",
        "flextok.npy",
        "--out",
        "out",
        "--samplers",
        "ntd",
    ]
    assert run(*words, "--decode", "mine:decode") == 0
    assert "its nearest training sequence" in Path("out/report.html").read_text()
    capsys.readouterr()
    for function, said in (
        ("mine:nothing", "is no function"),
        ("gone:x", "is no function"),
        ("mine:wrong", "gave"),
    ):
        assert run(*words, "--decode", function, "--seed", 1) == 1
        assert said in one_line(capsys)


def test_wrong_tokens_are_one_line(arrays: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def said(*words: Any) -> str:
        assert run("tokens", *words, "--out", "wrong") == 1
        return one_line(capsys)

    np.save("floats.npy", np.zeros((50, LENGTH)))
    np.save("short.npy", images(50, 3)[:, :16])
    assert "float64" in said("floats.npy", "--training", "flextok.npy")
    assert "16 tokens an image, the training images 48" in said(
        "short.npy", "--training", "flextok.npy"
    )
    assert "the vocabulary has 512" in said(
        "samples.npy", "--training", "flextok.npy", "--levels", 8, 8, 8
    )
    assert "no index in" in said("samples.npy", "--training", "nowhere", "--sequences", 1)
    assert "--sequences 0: at least 1" in said("samples.npy", "--sequences", 0)
    assert "cannot be read as .npy" in said("gone.npy", "--training", "flextok.npy")
    assert "no sampler 'nobody'" in said(
        "samples.npy", "--training", "flextok.npy", "--samplers", "nobody"
    )


def test_ids_without_codes(arrays: Path) -> None:
    """TiTok's: 32 tokens of 4,096, which are no FSQ codes."""
    rng = np.random.default_rng(5)
    np.save("titok.npy", rng.integers(0, 4096, (120, 32)))
    np.save("drawn.npy", np.load("titok.npy")[:30])
    words = ["--training", "titok.npy", "--vocab-size", 4096, "--samplers", "ntd", "--out", "out"]
    assert run("tokens", "drawn.npy", *words) == 0
    figures = json.loads(Path("out/figures.json").read_text())["figures"]["generated"]
    assert figures["exact_copies"]["value"] > 0.8  # a tenth was held out
    assert "f_mem" not in figures
