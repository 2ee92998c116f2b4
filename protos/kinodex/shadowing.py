"""Detects a module of the caller that hides a package of kinodex, such as a serve.py in the working folder.

kinodex installs four packages with plain names beside itself. Python imports the first module of a name on its path,
so a caller's serve.py would be imported in place of ours, and fail with "'serve' is not a package".
"""

from importlib.util import find_spec
from pathlib import Path

PACKAGES = ("ingest", "encoders", "temporal", "serve")
# The folders that may hold them: site-packages, beside kinodex/; a checkout, where kinodex/ is in protos/.
FOLDERS = tuple(Path(__file__).resolve().parents[1:3])


def check_shadowing() -> None:
    """Check that the name of each package of kinodex leads to that package.

    Raises:
        ImportError: If it leads to another module, or to none. The message names the file and says what to do.
    """
    for name in PACKAGES:
        spec = find_spec(name)
        if spec is None:
            raise ImportError(f"kinodex is not installed whole: its package {name!r} is missing; install it again")
        path = Path(spec.origin or next(iter(spec.submodule_search_locations or ()), ""))
        if path.resolve() not in {folder / name / "__init__.py" for folder in FOLDERS}:
            raise ImportError(
                f"{path} hides the package {name!r} of kinodex: rename it, or start Python in another folder"
            )
