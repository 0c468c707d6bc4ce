"""`tide`: which command is meant, and how a mistake is told. What a command needs is imported when it is given."""

from __future__ import annotations

import errno
import os
import sys
import warnings
from typing import NoReturn

from tide_lightning.class_paths import importable
from tide_lightning.command_line import code_folders, needs_config
from tide_lightning.commands import COMMANDS, LIGHTNING, LOOKS
from tide_lightning.commands.help import short_help
from tide_lightning.commands.overview import explain
from tide_lightning.errors import ToldElsewhereError, UserError
from tide_lightning.runs import leave_runs
from tide_lightning.stopping import EXIT_CODE, Stopped


def main(args: list[str] | None = None) -> int:
    """Run `tide` and return its exit code: 0; 2 for a mistake told in one line; 130 after Ctrl-C, 143 after SIGTERM."""
    debug = os.environ.get("TIDE_DEBUG") == "1"
    os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")  # Lightning's own calls
    warnings.filterwarnings("ignore", message=r"`isinstance\(treespec, LeafSpec\)`")  # Lightning's, with torch >= 2.9
    warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty")  # resuming in place
    warnings.filterwarnings("ignore", message="The dirpath has changed")  # of a run that was moved
    warnings.filterwarnings("ignore", message="It is recommended to use `self.log")  # figures are sums of all ranks
    args = sys.argv[1:] if args is None else args
    try:
        with importable(code_folders(args)):
            if args and args[0] in COMMANDS:
                from tide_lightning.commands.function import run_command

                run_command(args[0], args[1:])
            elif args and args[0] in LIGHTNING | LOOKS:
                if {"--help", "-h"} & set(args) and "--help_all" not in args:
                    print(short_help(args[0], (LIGHTNING | LOOKS)[args[0]]))
                    raise SystemExit(0)
                needs_config(args)
                from tide_lightning.commands.configured import run_configured

                run_configured(args)
            else:
                explain(args)
    except KeyboardInterrupt:
        print("tide: stopped by Ctrl-C", file=sys.stderr)
        return 130
    except Stopped as stopped:
        if not stopped.is_told:
            print(f"tide: {_one_line(str(stopped))}", file=sys.stderr)
        return EXIT_CODE
    except Exception as error:
        mistake = mistake_in(error)
        if debug or mistake is None:
            raise
        if not isinstance(mistake, ToldElsewhereError):
            print(f"tide: error: {_one_line(str(mistake))}", file=sys.stderr)
        return 2
    finally:
        leave_runs()
    return 0


_ENVIRONMENT = {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG, errno.ELOOP}


def mistake_in(error: BaseException | None) -> BaseException | None:
    """What the user is meant to see of an error: jsonargparse wraps what a class says while it is made.

    Also what the machine says: a full disk, a folder that may not be written, a name too long.
    """
    if isinstance(error, OSError) and error.errno in _ENVIRONMENT:
        return UserError(f"{error.filename or 'writing'}: {error.strerror}")
    while error is not None and not isinstance(error, _told()):
        error = error.__cause__
    return error


def _told() -> tuple[type[BaseException], ...]:
    """Errors that are told in one line: ours, and Lightning's of its kind if it is at work."""
    lightning = sys.modules.get("lightning.fabric.utilities.exceptions")
    return (UserError,) if lightning is None else (UserError, lightning.MisconfigurationException)


def entry_point() -> NoReturn:
    """The console script."""
    code = main()
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        if code:  # the others may be gone: nothing is waited for
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        distributed.destroy_process_group()  # gloo's threads now and then abort a process that ends with them
    sys.exit(code)


def _one_line(message: str) -> str:
    return " ".join(message.split())
