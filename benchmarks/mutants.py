"""Which broken lines do the tests not see? Breaks a file's expressions, one at a time, and runs the nearest tests.

    python -m benchmarks.mutants imagegram/metrics/*.py imagegram/tokens.py --mutants 8

A mutant is the tree with one comparison, number, operator or returned value replaced. It meets the tests
of the same name, then others that name its module (or `--tests`), until one fails. Survivors are printed: some of
them change nothing that could be seen. A `---` block counts them. Every mutant takes as long as its tests.
"""

import ast
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

import pytest
import tyro

from imagegram.cli import run_script, summary

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "datasets", "scipy.stats", "scipy.optimize", "sklearn", "matplotlib.pyplot")  # imported once
OTHER = [
    {ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq},
    {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult},
    {ast.And: ast.Or, ast.Or: ast.And, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd},
]
OPPOSITE = {operator: other for group in OTHER for operator, other in group.items()}
WORDS = ("annotation", "returns", "decorator_list")  # of a node: what no test can see
QUIET = ("tqdm", "UserError", "print", "dataclass", "TypeVar")  # calls whose arguments are looks


@dataclass
class Config:
    files: tyro.conf.Positional[tuple[Path, ...]]  # of the package
    mutants: int = 8  # of each file, chosen at random
    seed: int = 0
    tests: tuple[Path, ...] = ()  # instead of the nearest
    most_tests: int = 2  # files of the nearest
    without: str = "killed or infini or hundred"  # tests by their names (pytest's -k), that take long
    timeout: int = 200  # seconds: a mutant that never ends is seen, too


def visible(node: ast.AST) -> Iterator[ast.AST]:
    """What lies below a node, without annotations, messages and progress bars."""
    for name, value in ast.iter_fields(node):
        for child in value if isinstance(value, list) else [value]:
            quiet = isinstance(child, ast.Call) and getattr(child.func, "id", "") in QUIET
            if isinstance(child, ast.AST) and name not in WORDS and not quiet and not isinstance(child, ast.JoinedStr):
                yield child
                yield from visible(child)


def replacement(node: ast.AST) -> str:
    """What a mutant says in place of this node; "" where there is none."""
    if isinstance(node, ast.Compare) and type(node.ops[0]) in OPPOSITE:
        node.ops[0] = OPPOSITE[type(node.ops[0])]()
    elif isinstance(node, ast.BinOp | ast.BoolOp) and type(node.op) in OPPOSITE:
        node.op = OPPOSITE[type(node.op)]()
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
        node.value = not node.value
    elif isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        node.value = node.value + 1 if isinstance(node.value, int) else node.value * 1.3
    elif isinstance(node, ast.Return) and node.value and not isinstance(node.value, ast.Constant):
        node.value = ast.Constant(None)
    else:
        return ""
    return ast.unparse(node) if isinstance(node, ast.Return) else f"({ast.unparse(node)})"


def mutants(source: str) -> list[tuple[int, str, str]]:
    """All mutants of a module: the line, what is replaced by what, and the module's new text."""
    lines = source.encode().splitlines(keepends=True)
    found = []
    for number in range(len(list(visible(ast.parse(source))))):
        node = list(visible(ast.parse(source)))[number]  # read anew: the last one was changed
        before = ast.unparse(node)
        if after := replacement(node):
            start = sum(map(len, lines[: node.lineno - 1])) + node.col_offset  # type: ignore[attr-defined]
            end = sum(map(len, lines[: node.end_lineno - 1])) + node.end_col_offset  # type: ignore[attr-defined]
            text = source.encode()[:start] + after.encode() + source.encode()[end:]
            found.append((node.lineno, f"{before} -> {after}", text.decode()))  # type: ignore[attr-defined]
    return found


def nearest_tests(file: Path, most: int) -> list[str]:
    """Tests of the same name, then those of the same folder that name the module, then others."""
    name = ".".join(file.with_suffix("").parts)
    found = [path for path in sorted((ROOT / "tests").rglob("test_*.py")) if name in path.read_text()]
    found += [path for path in (ROOT / "tests").rglob(f"test_{file.stem}.py") if path not in found]
    found.sort(key=lambda path: (path.stem != f"test_{file.stem}", path.parent.name != file.parent.name))
    return [str(path.relative_to(ROOT)) for path in found[:most]]


def passes(tree: Path, tests: list[str], without: str = "nothing", timeout: float = 300) -> bool:
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
            pytest.main(["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-k", f"not ({without})", *tests])
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
        tree = Path(folder) / "tree"
        for name in subprocess.check_output(["git", "ls-files", "-co", "--exclude-standard"], text=True).splitlines():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(name, tree / name)
        for file in config.files:
            tests = [str(path) for path in config.tests] or nearest_tests(file, config.most_tests)
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
