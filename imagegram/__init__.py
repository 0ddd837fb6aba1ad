"""Imagegram: can n-gram statistics over image tokens generate images?

    import imagegram as ig

    tokens = ig.tokenize("digits", "tokens")
    index = ig.build_index(tokens, "index")
    samples = ig.sample(index, "kernel", 16)
    ig.show(ig.decode(index, samples)).save("samples.png")

Importing it takes no time: the functions come from api.py, with torch, when they are first used.
"""

import importlib
import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

__version__ = "0.1.0"
__all__ = [
    "build_index",
    "decode",
    "evaluate",
    "log2_probability",
    "open_index",
    "sample",
    "show",
    "tokenize",
    "tokens_from",
]

# OpenMP reads this once, when torch is imported. By default its threads spin while they wait for
# each other; where other processes want the same cores, that takes most of the time.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def _check_packages() -> None:
    """ImportError where a package is missing; for one of our scripts, one line and the end."""
    missing = [name for name in ("torch", "tyro", "fastgram") if find_spec(name) is None]
    if not missing:
        return
    here = Path(__file__).parents[1]
    what = f"{sys.executable} lacks {', '.join(missing)}, which Imagegram needs"
    remedy = (
        f"run `make setup` in {here}, then use .venv/bin/python instead, or `pip install {here}`"
    )
    message = f"{what}: {remedy}"
    script = getattr(sys.modules["__main__"], "__file__", None)
    if script and Path(script).resolve().parent == here:
        sys.exit(f"error: {message}")
    raise ImportError(message)


_check_packages()


def __getattr__(name: str) -> Any:
    """A public function, imported when it is first asked for: torch takes seconds."""
    if name not in __all__:
        raise AttributeError(f"imagegram has no {name!r}; it has {', '.join(__all__)}")
    return getattr(importlib.import_module("imagegram.api"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
