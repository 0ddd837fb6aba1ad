"""The package as people install it: what a wheel carries and needs, what importing it costs."""

import email
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.support.scripts import ROOT, program


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel, built from a copy, which no earlier build has left anything in."""
    place = tmp_path_factory.mktemp("wheel")
    names = ["pyproject.toml", "README.md", "LICENSE", "requirements.txt", "imagegram"]
    subprocess.run(["cp", "-r", *(ROOT / name for name in names), place], check=True)
    uv = Path(sys.executable).with_name("uv")
    options = ["--wheel", "--quiet", "--out-dir", str(place / "dist")]
    subprocess.run([uv, "build", *options, place], check=True, timeout=200)
    (file,) = (place / "dist").glob("*.whl")
    return zipfile.ZipFile(file)


def test_the_wheel_carries_weights_and_templates(wheel: zipfile.ZipFile) -> None:
    packed = {name for name in wheel.namelist() if not name.endswith("/")}
    files = [file for file in (ROOT / "imagegram").rglob("*") if file.is_file()]
    ours = {str(file.relative_to(ROOT)) for file in files if "__pycache__" not in file.parts}
    assert ours <= packed
    assert all(name.startswith(("imagegram/", "imagegram-")) for name in packed)


def test_the_wheel_asks_for_what_requirements_txt_lists(wheel: zipfile.ZipFile) -> None:
    (file,) = (name for name in wheel.namelist() if name.endswith("METADATA"))
    metadata = email.message_from_bytes(wheel.read(file))
    listed = (ROOT / "requirements.txt").read_text().splitlines()
    lines = [line.partition("#")[0].strip() for line in listed]
    assert sorted(metadata.get_all("Requires-Dist", [])) == sorted(filter(None, lines))
    assert metadata["Requires-Python"] == ">=3.11"


def test_importing_it_loads_no_torch() -> None:
    code = "import imagegram, sys; assert 'sample' in dir(imagegram); print('torch' in sys.modules)"
    assert program("-c", code).stdout == "False\n"


def test_another_python_is_told_what_is_missing() -> None:
    """-S: without the installed packages. An import must not end the interpreter of a notebook."""
    code = "try:\n import imagegram\nexcept ImportError as error:\n print(error)"
    assert "lacks torch, tyro, fastgram" in program("-S", "-c", code).stdout
    (line,) = program("-S", "tokenize_fast.py", ends=1).stderr.splitlines()
    assert "then use .venv/bin/python instead" in line


def test_a_name_that_it_does_not_have_is_said() -> None:
    import imagegram

    with pytest.raises(AttributeError, match="imagegram has no 'train'; it has build_index, "):
        imagegram.train  # noqa: B018
