"""Runs the command line: the console script `kinodex`, and `python -m kinodex`."""

import os
import sys
from typing import NoReturn

from kinodex.shadowing import check_shadowing


def main() -> NoReturn:
    """Run the command of this process, and exit."""
    _open_standard_streams()
    _use_utf8()
    try:
        check_shadowing()
    except ImportError as error:
        sys.exit(f"kinodex: error: {error}")
    from serve.cli.main import main as run

    run()


def _open_standard_streams() -> None:
    """Open the null device in place of closed standard streams, or the next file opened would be taken for one."""
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free descriptor: this one
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "r+" if descriptor else "r", encoding="utf-8"))  # noqa: SIM115


def _use_utf8() -> None:
    """Start this process again if Python does not read names of files as UTF-8, as with LC_ALL=POSIX PYTHONUTF8=0.

    The same file would have other names in other locales, and names with letters outside of ASCII could not be opened.
    """
    if sys.getfilesystemencoding().lower() != "utf-8" and sys.executable:
        arguments = [sys.executable, "-X", "utf8", *sys.orig_argv[1:]]
        os.execve(sys.executable, arguments, {**os.environ, "PYTHONUTF8": "1"})


if __name__ == "__main__":
    main()
