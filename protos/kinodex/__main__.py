"""Runs the command line: the console script `kinodex`, and `python -m kinodex`."""

import sys
from typing import NoReturn

from kinodex.shadowing import check_shadowing


def main() -> NoReturn:
    """Run the command of this process, and exit."""
    try:
        check_shadowing()
    except ImportError as error:
        sys.exit(f"kinodex: error: {error}")
    from serve.cli.main import main as run

    run()


if __name__ == "__main__":
    main()
