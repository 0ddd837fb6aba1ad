"""What every script shares: errors of one line, the command line, the closing block of results."""

import contextlib
import dataclasses
import errno
import io
import os
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import tyro
from tyro.conf import CascadeSubcommandArgs

# the fields of a field become options of their own
from tyro.conf import OmitArgPrefixes as OmitArgPrefixes


class UserError(Exception):
    """Something the user can put right: printed as one line with its remedy."""


# What people can put right about a file or a folder.
REMEDIES = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space",
    errno.EACCES: "give yourself the permission or choose another folder",
    errno.EPERM: "give yourself the permission or choose another folder",
    errno.EROFS: "choose a folder that can be written to",
    errno.EEXIST: "choose another folder",
    errno.ENAMETOOLONG: "choose shorter names (a name has at most 255 bytes, a path 4,095)",
    errno.EMFILE: "allow this process more open files (ulimit -n)",
    errno.ENOTDIR: "choose another folder, that one is or lies below a file",
}


def expand_home(value: Any) -> Any:
    """Options, at any depth, with ~ as the home folder, which no shell expands after a "="."""
    if isinstance(value, tuple):
        return tuple(map(expand_home, value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value) if field.init]
        expanded = {name: expand_home(getattr(value, name)) for name in names}
        return dataclasses.replace(value, **expanded)
    if isinstance(value, str | Path) and str(value).startswith("~"):
        with contextlib.suppress(RuntimeError):  # the home of somebody who is not known
            return type(value)(Path(value).expanduser())
    return value


def one_of(defaults: dict[str, Any]) -> Any:
    """The type of a field that a word on the command line chooses, with options of its own.

    defaults: the word -> its default, whose first paragraph of documentation explains it.
    """
    without_prefixes: Any = OmitArgPrefixes
    first = {name: str(default.__doc__).partition("\n\n")[0] for name, default in defaults.items()}
    said = {name: " ".join(words.split()) for name, words in first.items()}
    chosen = tyro.extras.subcommand_type_from_defaults(defaults, said, prefix_names=False)
    return without_prefixes[chosen]


def _in_one_line(error: Exception) -> str | None:
    """What people can put right, with the remedy; None of what they cannot."""
    if isinstance(error, UserError):
        return str(error)
    # a library of PyTorch that does not fit into the memory allowed
    if not isinstance(error, OSError):
        is_memory = "failed to map segment" in str(error)
        return f"{error}: allow this process more memory (ulimit -v)" if is_memory else None
    remedy = REMEDIES.get(error.errno or 0)
    if remedy is None:
        return None
    file, what = error.filename, error.strerror
    if error.errno == errno.EEXIST and isinstance(file, str) and Path(file).is_symlink():
        what = "a link whose target is gone"
    place = f"{str(file)[:200]}: " if file else ""
    return f"{place}{what}: {remedy}, then run the same command again"


def run_script(
    main: Callable[[Any], object],
    config: Any,
    doc: str | None,
    args: list[str] | None = None,
    *,
    renamed: Mapping[str, str] | None = None,
) -> int:
    """Parse the command line into `config` (a dataclass or a union of them), call `main`, return
    the exit code. renamed: options that had another name, with what to write instead."""
    # A scheduler's stop and a closed terminal are as clean as Ctrl-C.
    for stop in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(stop) is not signal.SIG_IGN:  # nohup
            signal.signal(stop, signal.default_int_handler)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files need not be text
    options = None
    try:
        for word in sys.argv[1:] if args is None else args:
            option = word.partition("=")[0]
            if instead := (renamed or {}).get(option):
                raise UserError(f"{option} has another name now: {instead}")
        module = sys.modules["__main__"].__spec__  # None: a script
        prog = f"python -m {module.name.removesuffix('.__main__')}" if module else None
        # options of the whole may stand behind the word that chooses a part
        how = [CascadeSubcommandArgs]
        options = tyro.cli(config, prog=prog, description=doc, args=args, config=how)
        main(expand_home(options))
    except (UserError, ImportError, OSError) as error:
        line = _in_one_line(error)
        if line is None:
            raise
        print(f"error: {line}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        kept = ": finished work is kept, the same command goes on from it"
        is_dry = getattr(options, "dry_run", False)
        print(f"interrupted{'' if is_dry else kept}", file=sys.stderr)
        # a program: to take it down with all its threads in order may take longer than its stop
        if args is None:
            sys.stdout.flush()
            os._exit(130)
        return 130
    return 0


def summary(**values: object) -> None:
    """Print the closing block of a script: greppable `key: value` lines after `---`."""
    print("---")
    for key, value in values.items():
        print(f"{key}: {value:.4g}" if isinstance(value, float) else f"{key}: {value}")
