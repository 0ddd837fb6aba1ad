"""What the documentation shows, runs: examples in docstrings, the README, the notebook."""

import doctest
import importlib
import re
from pathlib import Path

import nbclient
import nbformat
import pytest

from tests.support.scripts import ROOT, program

FOLDERS = ("imagegram", "overnight", "experiments", "training")
CODE = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")]
WITH_EXAMPLES = [path for path in sorted(CODE) if ">>> " in path.read_text()]


@pytest.mark.parametrize("path", WITH_EXAMPLES, ids=lambda path: str(path.relative_to(ROOT)))
def test_examples_in_docstrings_give_what_they_say(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    # The summary that a call prints is no part of an example; values are shown without `print`.
    monkeypatch.setattr("builtins.print", lambda *words, **how: None)
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    module = importlib.import_module(name)
    for test in doctest.DocTestFinder().find(module, name):
        runner = doctest.DocTestRunner(verbose=False)
        assert runner.run(test).failed == 0, f"{test.name}: {capsys.readouterr().out[-2000:]}"


def test_the_ten_lines_of_the_readme_run_in_an_empty_folder(tmp_path: Path) -> None:
    pattern = r"```python\n(import imagegram as ig\n.*?)```"
    (lines,) = re.findall(pattern, (ROOT / "README.md").read_text(), re.DOTALL)
    assert len([line for line in lines.splitlines() if line.strip()]) <= 10
    # On fewer digits, which takes a third of the time.
    fewer = lines.replace('("digits", "tokens")', '("digits", "tokens", images=300)')
    assert fewer != lines
    program("-c", fewer, cwd=tmp_path, PATH="/usr/bin:/bin", HOME=str(tmp_path))
    assert (tmp_path / "samples.png").stat().st_size > 1000


@pytest.mark.timeout(480)
def test_the_notebook_runs_and_is_saved_with_what_it_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notebook = nbformat.read(ROOT / "notebooks" / "01_where_does_it_come_from.ipynb", 4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.outputs for cell in cells)
    shown = [output.get("data", {}) for cell in cells for output in cell.outputs]
    assert sum("image/png" in data for data in shown) == 3
    # On fewer digits, which takes a third of the time.
    first = next(cell for cell in cells if "ig.tokenize" in cell.source)
    first.source = first.source.replace('"notebook/tokens")', '"notebook/tokens", images=400)')
    assert "images=400" in first.source
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("JUPYTER_CONFIG_DIR", str(tmp_path / "config"))
    place = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=200, resources=place).execute()
