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
ASKED = ["tokens", "samples.npy", "--training", "flextok.npy"]


def images(n: int, seed: int) -> Array:
    """Sequences as FlexTok's, [n, 256]: each near one of five."""
    centres = np.random.default_rng(7).integers(0, LEVELS, (5, LENGTH, 6))
    rng = np.random.default_rng(seed)
    digits = centres[rng.integers(0, 5, n)]
    digits += np.rint(0.6 * rng.standard_normal((n, LENGTH, 6))).astype(int)
    return (digits.clip(0, LEVELS - 1) @ np.cumprod([1, *LEVELS[:-1]])).astype(np.uint16)


def written(file: str = "out/figures.json") -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path(file).read_text())
    return found


@pytest.fixture
def arrays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """flextok.npy: 200 sequences; samples.npy: 40, of which ten are copies and five hold half of
    another one; whole.npy: 120 of 256 tokens."""
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
    commands = index_command.Build | index_command.Verify
    assert run_script(index_command.main, commands, None, built) == 0
    assert run("predict", "whole") == 0
    drawn = ["aligned", "--index", "index", "--sequences", "30", "--out", "drawn"]
    assert run_script(generate_images.main, generate_images.Config, None, drawn) == 0
    words = ["tokens", "drawn/tokens.npy", "--training", "index", "--held-out", "whole.npy"]
    assert run(*words, "--out", "page", "--samplers", "aligned") == 0
    figures = written("page/figures.json")["figures"]
    assert figures["held_out"]["exact_copies"]["value"] > 0.8  # all but a tenth are in the index
    said = capsys.readouterr().out
    assert "whole: the tokens of whole.npy, a tenth of them held out" in said
    assert "holds tokens of no codec: figures alone" in said
    assert np.load("drawn/tokens.npy").shape == (30, LENGTH)
    page = Path("page/report.html").read_text()
    assert "samples.npy" not in page
    assert "tokens.npy against its training sequences" in page
    assert written("whole/manifest.json")["levels"] == LEVELS.tolist()


def test_copies_and_runs_are_found_with_their_sources(
    arrays: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--held-out", "held_out.npy", "--out", "out", "--samplers", "ntd", "smoothed"]
    assert run(*ASKED, *words) == 0
    said = capsys.readouterr().out
    assert "Some of these sequences are copies: exact copies 25.0 %" in said
    record = written()
    mine, real = (record["figures"][who] for who in ("generated", "held_out"))
    assert mine["exact_copies"]["value"] == 0.25
    assert real["exact_copies"]["value"] == 0
    assert mine["near_copies"]["value"] >= 0.25
    for bits in record["bits"].values():  # copies need fewer bits than held-out sequences
        assert bits["sample_bits"]["high"] < bits["held_out_bits"]["low"]
    assert set(record["bits"]) == {"ntd", "smoothed"}

    rows, places = np.moveaxis(np.load("out/sources.npy"), 2, 0)
    assert (rows[:10] == np.arange(10)[:, None]).all()
    assert (rows[10:15, 12:36] == np.arange(20, 25)[:, None]).all()
    assert (places[:10] == np.arange(SHORT)).all()
    assert (np.load("flextok.npy")[rows, places] == np.load("samples.npy"))[rows >= 0].all()
    assert run(*ASKED, *words) == 0
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
    words = [*ASKED, "--out", "out", "--samplers", "ntd"]
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
    np.save("floats.npy", np.zeros((50, LENGTH)))
    np.save("short.npy", images(50, 3)[:, :16])
    for samples, words, message in (
        ("floats", [], "float64"),
        ("short", [], "16 tokens an image, the training images 48"),
        ("samples", ["--levels", 8, 8, 8], "the vocabulary has 512"),
        ("samples", ["--training", "nowhere", "--sequences", 1], "no index in"),
        ("samples", ["--sequences", 0], "--sequences 0: at least 1"),
        ("gone", [], "cannot be read as .npy"),
        ("samples", ["--samplers", "nobody"], "no sampler 'nobody'"),
    ):
        training = [] if "--training" in words else ASKED[2:]
        assert run("tokens", f"{samples}.npy", *training, *words, "--out", "wrong") == 1
        assert message in one_line(capsys)


def test_ids_without_codes(arrays: Path) -> None:
    """TiTok's: 32 tokens of 4,096, which are no FSQ codes."""
    rng = np.random.default_rng(5)
    np.save("titok.npy", rng.integers(0, 4096, (120, 32)))
    np.save("drawn.npy", np.load("titok.npy")[:30])
    words = ["--training", "titok.npy", "--vocab-size", 4096, "--samplers", "ntd", "--out", "out"]
    assert run("tokens", "drawn.npy", *words) == 0
    figures = written()["figures"]["generated"]
    assert figures["exact_copies"]["value"] > 0.8  # a tenth was held out
    assert "f_mem" not in figures
