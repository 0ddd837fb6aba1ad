"""Every script on tiny input: they chain, and agree with the overnight run; bad input is a line."""

import importlib
import json
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import generate_images
import overnight_run
import tokenize_fast
from imagegram.codec.tiny import TinyCodec
from imagegram.metrics import coherence
from imagegram.samplers import Aligned
from imagegram.samplers.kernel import fit as kernel_fit
from imagegram.tokens import TokenFolder
from tests.support.scripts import (
    ROOT,
    build,
    program,
    refused,
    run,
    run_generate,
    run_overnight,
    run_tokenize,
)

SCRIPTS = sorted(path.stem for path in ROOT.glob("*.py"))


@pytest.fixture(scope="module", autouse=True)
def few_steps() -> Iterator[None]:
    """Classifiers hardly trained, and only some of the samplers."""
    some = {name: overnight_run.SAMPLERS[name] for name in ("kernel", "aligned", "ntd-long")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(coherence, "STEPS", 5)
        patch.setattr(TinyCodec, "timesteps", 2)
        patch.setattr(kernel_fit, "STEPS", 6)
        patch.setattr(overnight_run, "SAMPLERS", some)
        patch.setattr(overnight_run, "PREFIXES", 1)
        yield


# of these images, 43 are held out
IMAGES, SMALL = "--images 500", "--sequences 30 --decoded 4"


@pytest.fixture(scope="module")
def overnight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small finished overnight run."""
    out = tmp_path_factory.mktemp("overnight")
    run_overnight(IMAGES, SMALL, f"--out {out}")
    return out


def test_the_overnight_run_leaves_pictures_numbers_and_a_page(overnight: Path) -> None:
    corpus = TokenFolder.open(overnight / "tokens").load()
    for name in overnight_run.SAMPLERS:
        folder = overnight / "generated" / f"{name}-seed0"
        tokens, sources = np.load(folder / "tokens.npy"), np.load(folder / "sources.npy")
        assert (tokens.shape, tokens.dtype, sources.shape) == ((30, 16), np.uint16, (30, 16, 3))
        assert len(list(folder.glob("image_*.png"))) == 4
        assert Image.open(folder / "grid.png").width > 300
        assert (folder / "listening.png").exists() == (name == "kernel")
        report = json.loads((folder / "report.json").read_text())
        generated = report["generated"]
        copies = generated["exact_copies"]
        assert 0 <= copies["low"] <= copies["high"] <= 1
        assert report["held_out"]["exact_copies"]["value"] == 0
        assert "coherence" not in generated  # four images cannot tell
        rows = np.searchsorted(corpus.ordinals, sources[..., 1])
        # one data set, none of whose bad images shifts the ordinals
        assert (sources[..., 0] == 0).all()
        if name != "kernel":  # whose tokens step away from their sources
            assert np.array_equal(corpus.tokens[rows, sources[..., 2]], tokens)
        assert 0 <= generated["exact_copy_probability"]["value"] < 1 + 1e-9
        assert generated["held_out_bits"]["value"] > 4
    page = (overnight / "report.html").read_text()
    assert all(f'id="{name}"' in page for name in overnight_run.SAMPLERS)
    walls = len(overnight_run.SAMPLERS) + 1  # and the held-out images
    assert page.count("data:image/png;base64,") == walls  # the strips of tokens
    copier = json.loads((overnight / "generated" / "ntd-long-seed0" / "report.json").read_text())
    assert copier["generated"]["exact_copies"]["value"] == 1  # a long context does nothing but copy


def test_the_scripts_by_hand_give_what_the_overnight_run_gives(
    overnight: Path, tmp_path: Path
) -> None:
    run_tokenize(IMAGES, f"--out {tmp_path}/tokens")
    build(tmp_path, tmp_path / "tokens")
    asked = f"--index {tmp_path}/index", SMALL
    assert "exact_copies: " in run_generate(*asked, f"--out {tmp_path}/g")
    name = next(n for n, s in overnight_run.SAMPLERS.items() if s == generate_images.SAMPLER)
    by_night = overnight / "generated" / f"{name}-seed0"
    for file in ("tokens.npy", "sources.npy", "image_0003.png"):
        assert (tmp_path / "g" / file).read_bytes() == (by_night / file).read_bytes()
    assert "nothing to do" in run_generate(*asked, f"--out {tmp_path}/g")
    assert all((tmp_path / "g" / f"{strip}.png").exists() for strip in ("prefixes", "seeds"))
    run_generate(*asked, f"--out {tmp_path}/other --seed 1 --decoded 0 --length=6 --prompt=2")
    tokens, sources = (np.load(tmp_path / f"other/{name}.npy") for name in ("tokens", "sources"))
    assert (tokens != np.load(tmp_path / "g" / "tokens.npy")[:, :6]).any()
    assert (sources[:, :2] == -1).all()
    assert (sources[:, 2:] >= 0).all()


def test_a_refused_command_and_foreign_folders_lose_nothing(
    overnight: Path, tmp_path: Path
) -> None:
    """Everything is checked before a finished folder is touched; others' folders never are."""
    finished = tmp_path / "finished"
    asked = f"aligned --index {overnight}/index --sequences 20 --decoded 2 --prefixes 0"
    asked += f" --out {finished}"
    run_generate(asked)
    before = {file: file.read_bytes() for file in finished.iterdir()}
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "image_0001.png").write_bytes(b"holiday")
    (foreign / ".lock").touch()  # anybody may have one
    (foreign / "notes.txt").write_bytes(b"holiday")
    for wrong, message in (
        ("--label 99", "holds no image of class '99'"),
        ("--length 40", "has 16"),
        ("--prompt -2", "one must be left to draw"),
        ("--sequences 0", "--sequences 0"),
        ("--decoded -5", "must not be negative"),
        ("--seed -1", "a seed lies between"),
        ("--timesteps -3", "timesteps must be positive"),
        (f"--out {foreign}", "holds files that are not generated images"),
        (f"--out {foreign}/image_0001.png", "is a file"),
    ):
        assert message in refused(generate_images, asked, wrong)
    assert {file: file.read_bytes() for file in finished.iterdir()} == before
    assert sorted(file.read_bytes() for file in foreign.iterdir()) == [b"", b"holiday", b"holiday"]

    # Other settings replace a finished run with a line that says so; figures only is one as well.
    said = run_generate(asked, "--decoded 0")
    assert "replaces a finished run of other settings (decoded: 2 -> 0)" in said
    assert sorted(file.suffix for file in finished.iterdir()) == ["", "", ".json", ".npy", ".npy"]


def test_the_default_folder_carries_what_differs_from_the_default() -> None:
    name, config = generate_images.default_out, generate_images.Config
    assert name(config()) == Path("data/generated/kernel-seed0")
    changed = config(sampler=Aligned(context=3, temperature=0.5), prompt=2, seeds=4, seed=3)
    assert name(changed).name == "aligned-context3-temperature0.5-prompt2-seeds4-seed3"


@pytest.mark.parametrize("name", SCRIPTS)
def test_help_explains_every_option(name: str) -> None:
    script = importlib.import_module(name)
    said = run(script, "--help")
    assert str(script.__doc__).splitlines()[0] in said
    values = vars(script.Config())
    options = {name for name, value in values.items() if not is_dataclass(value)}
    for name, value in values.items():
        # its fields are options of their own, a name is called after the whole
        if is_dataclass(value):
            options |= {name if field.name == "name" else field.name for field in fields(value)}
    assert all(f"--{name.replace('_', '-')}" in said for name in options)


@pytest.mark.parametrize("name", [name for name in SCRIPTS if name != "train_tiny_flextok"])
def test_help_waits_for_no_library_of_the_work_itself(name: str) -> None:
    result = program("-X", "importtime", ROOT / f"{name}.py", "--help")
    imported = {line.rpartition("|")[2].strip() for line in result.stderr.splitlines()}
    assert "tyro" in imported
    slow = {"torch", "scipy", "sklearn", "datasets", "matplotlib", "pandas", "fastgram"}
    assert not slow & imported


def test_bad_input_ends_in_one_line_and_a_non_zero_exit(overnight: Path, tmp_path: Path) -> None:
    out = f"--out {tmp_path}/out"
    (tmp_path / "empty").mkdir()
    for arguments, message in (
        ("--dataset no-such-data-set", "cannot load the data set"),
        (f"--dataset {tmp_path}/empty", "holds no images"),
        (f"--dataset {tmp_path}/missing", "no data set at"),
        ("--codec no-such-codec", "unknown codec"),
        ("--images 2000", "2000 were asked for"),
    ):
        assert message in refused(tokenize_fast, out, arguments)
    none, index = f"--index {tmp_path}/none", f"--index {overnight}/index"
    assert "run build_index.sh first" in refused(generate_images, none, out)
    other = "--codec EPFL-VILAB/flextok_d18_d28_dfn"
    assert "holds tokens of codec 'tiny'" in refused(generate_images, index, other, out)
    for option, instead in generate_images.RENAMED.items():
        said = refused(generate_images, index, f"{option}=3", out)
        assert f"{option} has another name now: {instead}" in said
    (line,) = build(tmp_path, tmp_path / "no-tokens", ends=1).stderr.splitlines()
    assert "run tokenize_fast.py first" in line
