"""The house: no import runs upward, no circle, no file or function too long to read in one go."""

import ast
import graphlib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# From the ground up: a station may import from those before it.
STATIONS = ["cli", "files", "artifact", "machine", "data", "options", "manifest", "tokens"]
STATIONS += ["token_arrays", "codec", "tokenizing", "index", "samplers", "metrics", "report"]
STATIONS += ["parts", "generating", "api"]
MOST_LINES = 400  # of a file
MOST_FUNCTION_LINES = 60
MOST_PARAMETERS = 8
# Lines. What adds says in its commit what it deleted; both are to fall.
MOST_OF_PACKAGE = 14_850
MOST_OF_ALL = 31_330
PARTS = ("imagegram", "benchmarks", "experiments", "overnight", "training")
IN_PARTS = [path for part in PARTS for path in (ROOT / part).rglob("*.py")]
CODE = sorted([*ROOT.glob("*.py"), *IN_PARTS])
PACKAGE = [path for path in CODE if ROOT / "imagegram" in path.parents]
TESTS = sorted((ROOT / "tests").rglob("*.py"))


def module_of(path: Path) -> str:
    """The dotted name of a file."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """Modules that a file imports, wherever in it, with the line."""
    known = {module_of(other) for other in CODE}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            # `from imagegram.index import build`: a module; `... .cli import UserError`: in one
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in known else node.module for name in names]
        else:
            continue
        yield from ((name, node.lineno) for name in names)


def test_no_import_runs_upward() -> None:
    upward = []
    for path in PACKAGE:
        parts = module_of(path).split(".")
        if len(parts) < 2 or path.stem == "__main__":  # a script, which may use everything
            continue
        assert parts[1] in STATIONS, f"{path}: add it to STATIONS at its height"
        for name, line in imports(path):
            top, *below = name.split(".")
            if top == "imagegram" and STATIONS.index(below[0]) > STATIONS.index(parts[1]):
                upward.append(f"{path.relative_to(ROOT)}:{line} imports {name}")
    assert not upward


def test_the_package_needs_nothing_that_is_not_in_its_wheel() -> None:
    outside = {"benchmarks", "experiments", "overnight", "tests", "training"}
    for path in PACKAGE:
        assert not outside.intersection(name.split(".")[0] for name, _ in imports(path)), path


def test_no_two_modules_share_a_name() -> None:
    names = [path.stem for path in PACKAGE if not path.stem.startswith("__")]
    assert sorted(names) == sorted(set(names))


def test_the_project_does_not_grow_unseen() -> None:
    lines = {path: len(path.read_text().splitlines()) for path in [*CODE, *TESTS]}
    assert sum(lines[path] for path in PACKAGE) <= MOST_OF_PACKAGE
    assert sum(lines.values()) <= MOST_OF_ALL


def test_no_circle() -> None:
    graph = {module_of(path): {name for name, _ in imports(path)} for path in CODE}
    graphlib.TopologicalSorter(graph).prepare()  # CycleError names the circle


@pytest.mark.parametrize("path", [*CODE, *TESTS], ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_is_too_long_to_read(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= MOST_LINES
    for node in ast.walk(ast.parse(text)) if path in CODE else ():
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            arguments = node.args
            parameters = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
            parameters = [one for one in parameters if one.arg not in ("self", "cls")]
            assert lines <= MOST_FUNCTION_LINES, f"{node.name} has {lines} lines"
            count = len(parameters)
            assert count <= MOST_PARAMETERS, f"{node.name} has {count} parameters"
