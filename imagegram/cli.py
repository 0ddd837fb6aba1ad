"""What every script shares: errors of one line, the command line, the closing block of results."""

import errno
import signal
import sys
from collections.abc import Callable
from typing import Any

import tyro
from tyro.conf import OmitArgPrefixes as OmitArgPrefixes  # the fields of a field become options of their own


class UserError(Exception):
    """Something the user can put right: printed as one line with its remedy, without a traceback."""


def run_script(main: Callable[[Any], object], config: Any, doc: str | None, args: list[str] | None = None) -> int:
    """Parse the command line into `config` (a dataclass or a union of them), call `main`, return the exit code."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a scheduler's stop is as clean as Ctrl-C
    try:
        main(tyro.cli(config, description=doc, args=args))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        print(f"error: {error}: make room, then run the same command again", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted: finished work is kept, the same command goes on from it", file=sys.stderr)
        return 130
    return 0


def summary(**values: object) -> None:
    """Print the closing block of a script: greppable `key: value` lines after `---`."""
    print("---")
    for key, value in values.items():
        print(f"{key}: {value:.4g}" if isinstance(value, float) else f"{key}: {value}")
