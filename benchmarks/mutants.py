"""Which broken lines do the tests not see? Breaks a file's expressions, one at a time, and runs the nearest tests.

    python -m benchmarks.mutants imagegram/metrics/*.py imagegram/tokens.py --mutants 8

In a mutant one comparison, number, operator or returned value is replaced. Survivors are printed; some of them change
nothing that could be seen.
"""

import ast
import copy
import importlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import tyro

from imagegram.cli import run_script, summary

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "datasets", "scipy.stats", "scipy.optimize", "sklearn", "matplotlib.pyplot")  # imported once
PAIRS = [(ast.Lt, ast.LtE), (ast.Gt, ast.GtE), (ast.Eq, ast.NotEq), (ast.Add, ast.Sub), (ast.FloorDiv, ast.Mult)]
PAIRS += [(ast.Mult, ast.Div), (ast.And, ast.Or), (ast.BitAnd, ast.BitOr)]
OTHER: dict[type, Any] = {one: other for pair in PAIRS for one, other in (pair, pair[::-1])}
UNSEEN = ("annotation", "returns", "decorator_list")  # of a node
QUIET = ("tqdm", "UserError", "print", "dataclass")  # calls whose arguments are looks


@dataclass
class Config:
    files: tyro.conf.Positional[tuple[Path, ...]]  # of the package
    mutants: int = 8  # of each file, chosen at random
    seed: int = 0
    tests: int = 2  # files of tests, the nearest
    without: str = "killed"  # tests by their names (pytest's -k) that take long
    timeout: int = 300  # seconds: a mutant that never ends is seen, too


def visible(node: ast.AST) -> Iterator[ast.AST]:
    """What lies below a node, without annotations, messages and progress bars."""
    for name, value in ast.iter_fields(node):
        for child in value if isinstance(value, list) else [value]:
            quiet = isinstance(child, ast.Call) and getattr(child.func, "id", "") in QUIET
            if isinstance(child, ast.AST) and name not in UNSEEN and not quiet and not isinstance(child, ast.JoinedStr):
                yield child
                yield from visible(child)


def broken(node: Any) -> bool:
    """Change a node into a mutant; False where it has none."""
    if isinstance(node, ast.Compare) and type(node.ops[0]) in OTHER:
        node.ops[0] = OTHER[type(node.ops[0])]()
    elif isinstance(node, ast.BinOp | ast.BoolOp) and type(node.op) in OTHER:
        node.op = OTHER[type(node.op)]()
    elif isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        value = node.value
        node.value = not value if isinstance(value, bool) else value + 1 if isinstance(value, int) else 1.3 * value
    elif isinstance(node, ast.Return) and node.value and not isinstance(node.value, ast.Constant):
        node.value = ast.Constant(None)
    else:
        return False
    return True


def mutants(source: str) -> list[tuple[int, str, str]]:
    """All mutants of a module: the line, what is replaced by what, and the module's new text."""
    text = source.encode()
    ends = [0]
    for line in text.splitlines(keepends=True):
        ends.append(ends[-1] + len(line))
    found = []
    for node in visible(ast.parse(source)):
        other: Any = copy.deepcopy(node)
        if broken(other):
            start = ends[other.lineno - 1] + other.col_offset
            end = ends[other.end_lineno - 1] + other.end_col_offset
            after = ast.unparse(other) if isinstance(node, ast.Return) else f"({ast.unparse(other)})"
            mutant = text[:start] + after.encode() + text[end:]
            found.append((other.lineno, f"{ast.unparse(node)} -> {after}", mutant.decode()))
    return found


def nearest_tests(file: Path, most: int) -> list[str]:
    """Tests of the same name, then those that name the module, its folder's first; else all of its folder. And examples
    in docstrings."""
    name = ".".join(file.with_suffix("").parts)
    every = sorted((ROOT / "tests").rglob("test_*.py"))
    found = [path for path in every if path.stem == f"test_{file.stem}" or name in path.read_text()]
    found = found or [path for path in every if path.parent.name == file.parent.name]
    found.sort(key=lambda path: (path.stem != f"test_{file.stem}", path.parent.name != file.parent.name))
    examples = [str(file)] if ">>> " in file.read_text() else []
    return [*(str(path.relative_to(ROOT)) for path in found[:most]), *examples]


def passes(tree: Path, tests: list[str], without: str, timeout: float) -> bool:
    """Whether the tests pass in a copy of the project, asked of a copy of this process."""
    if not (child := os.fork()):
        os.setpgid(0, 0)
        os.chdir(tree)
        for stream in (1, 2):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
        sys.path[:] = [str(tree), *(entry for entry in sys.path if entry not in ("", str(ROOT)))]
        for name in [name for name in sys.modules if name.split(".")[0] in ("imagegram", "benchmarks")]:
            del sys.modules[name]
        os._exit(
            pytest.main(["-x", "-q", "-p", "no:cacheprovider", "--doctest-modules", "-k", f"not ({without})", *tests])
        )
    deadline = time.monotonic() + timeout
    while not (ended := os.waitpid(child, os.WNOHANG))[0] and time.monotonic() < deadline:
        time.sleep(0.05)
    if not ended[0]:
        os.killpg(child, signal.SIGKILL)
        ended = os.waitpid(child, 0)
    return ended[1] == 0


def main(config: Config) -> None:
    sys.dont_write_bytecode = True
    for name in HEAVY:
        importlib.import_module(name)
    survived, tried = 0, 0
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder)
        for name in subprocess.check_output(["git", "ls-files", "-co", "--exclude-standard"], text=True).splitlines():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(name, tree / name)
        for file in config.files:
            tests = nearest_tests(file, config.tests)
            source = (tree / file).read_text()
            every = mutants(source)
            chosen = sorted(random.Random(f"{config.seed} {file}").sample(every, min(config.mutants, len(every))))
            if chosen and not passes(tree, tests, config.without, config.timeout):
                print(f"{file}: its tests fail unbroken ({' '.join(tests)})", flush=True)
                continue
            alive = []
            for line, words, text in chosen:
                (tree / file).write_text(text)
                if passes(tree, tests, config.without, config.timeout):
                    alive.append(f"    {file}:{line}: {words}")
            (tree / file).write_text(source)
            print(f"{file}: {len(chosen) - len(alive)} of {len(chosen)} seen by {' '.join(tests)}", *alive, sep="\n")
            sys.stdout.flush()
            survived, tried = survived + len(alive), tried + len(chosen)
    summary(mutants=tried, seen=tried - survived, survived=survived)


if __name__ == "__main__":
    sys.exit(run_script(main, Config, __doc__))
