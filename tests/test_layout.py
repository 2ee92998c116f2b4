"""The project's shape: which stage may import what, how errors are made, which file names mean nothing."""

import ast
import importlib
import inspect
import subprocess
import sys
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
STAGES = ("ingest", "encoders", "temporal", "serve")  # arrows point back: a stage knows those before it
ROOT_ERRORS = {"ingest": "IngestError", "encoders": "EncoderError", "temporal": "TemporalError", "serve": "ServeError"}
SEAMS = {"values", "errors"}  # all that a stage shows to those after it
MEANINGLESS_NAMES = {"utils.py", "util.py", "common.py", "helpers.py", "misc.py", "types.py"}
# The rooms of serve/, floor by floor, the lowest first: a room imports only from rooms below it. The files of serve/
# itself are the ground that every room stands on.
FLOORS = (
    {"catalog", "codec", "observe"},
    {"index", "live", "worker", "clips"},
    {"search"},
    {"moderation", "indexing", "client"},
    {"api", "evaluate"},
    {"console"},
    {"cli"},
    {"demo"},
)
LARGEST_ROOM = 20  # modules of one folder: more than that, and nobody finds the file
HEAVY = ("torch", "faiss", "av", "transformers", "open_clip", "whisper", "sentence_transformers")


def sources(stage: str) -> list[Path]:
    return sorted((ROOT / stage).rglob("*.py"))


@cache  # several tests read every file
def imported(path: Path) -> tuple[str, ...]:
    """Return the dotted name of every module that a file imports, wherever in the file, names imported included."""
    names: list[str] = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively; name the stage"
            names += (f"{node.module}.{alias.name}" for alias in node.names)
    return tuple(names)


def test_stages_import_only_the_values_and_errors_of_stages_before_them() -> None:
    for stage in STAGES[:-1]:
        for path in sources(stage):
            for module in imported(path):
                other, _, rest = module.partition(".")
                if other in STAGES and other != stage:
                    assert STAGES.index(other) < STAGES.index(stage), f"{path} imports {module}"
                    assert rest.split(".")[0] in SEAMS, f"{path} imports {module}"


def floor_of(room: str) -> int:
    return next(number for number, rooms in enumerate(FLOORS) if room in rooms)


def room_of(module: str) -> str | None:
    """Return the room of serve/ that a dotted name belongs to: None for the files of serve/ itself."""
    stage, _, rest = module.partition(".")
    room = rest.partition(".")[0]
    return room if stage == "serve" and (ROOT / "serve" / room).is_dir() and room else None


def test_rooms_import_only_from_rooms_below_them() -> None:
    for path in sources("serve"):
        mine = room_of(".".join(path.relative_to(ROOT).with_suffix("").parts))
        for module in imported(path):
            other = room_of(module)
            if other is not None and other != mine:
                assert mine is not None, f"{path} is below every room and imports {module}"
                assert floor_of(other) < floor_of(mine), f"{path} imports {module}, which is not below it"


def test_every_room_stands_on_a_floor() -> None:
    rooms = {path.parent.name for path in (ROOT / "serve").glob("*/__init__.py")}
    assert rooms == set().union(*FLOORS)


def test_no_files_import_each_other_in_a_circle() -> None:
    files = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for s in STAGES for path in sources(s)}
    arrows = {
        name.removesuffix(".__init__"): {
            other for module in imported(path) for other in (module, module.rpartition(".")[0]) if other in files
        }
        for name, path in files.items()
    }
    sorter = TopologicalSorter({name: others - {name} for name, others in arrows.items()})
    sorter.prepare()  # raises CycleError, which names the circle


def test_no_folder_holds_more_files_than_a_reader_can_scan() -> None:
    for folder in {path.parent for stage in STAGES for path in sources(stage)}:
        modules = [path for path in folder.glob("*.py") if path.name != "__init__.py"]
        assert len(modules) <= LARGEST_ROOM, f"{folder} holds {len(modules)} modules"


def test_values_and_errors_import_nothing_else_of_their_stage() -> None:
    for stage in STAGES:
        for path in (ROOT / stage / f"{seam}.py" for seam in SEAMS):
            for module in imported(path):
                other, _, rest = module.partition(".")
                assert other not in STAGES or rest.split(".")[0] in SEAMS, f"{path} imports {module}"


def test_decoding_needs_neither_models_nor_an_index() -> None:
    for path in sources("ingest"):
        packages = {module.partition(".")[0] for module in imported(path)}
        assert not packages & {"torch", "faiss", "transformers", "whisper", "open_clip"}, path


def test_no_code_imports_its_tests_or_benchmarks() -> None:
    for path in (path for stage in STAGES for path in sources(stage)):
        assert not {module.partition(".")[0] for module in imported(path)} & {"tests", "benchmarks", "pytest"}, path


def test_no_file_has_a_name_that_means_nothing() -> None:
    folders = [*STAGES, "tests", "benchmarks"]
    assert not [path for folder in folders for path in sources(folder) if path.name in MEANINGLESS_NAMES]


@pytest.mark.parametrize(
    "module", ["serve.cli.main", "serve.catalog.catalog", "ingest.values", "encoders.values", "temporal.values"]
)
def test_importing_it_loads_nothing_heavy(module: str) -> None:
    code = f"import sys, {module}; print(*sorted(set(sys.modules) & set({HEAVY!r})))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert (done.stdout.strip(), done.stderr) == ("", "")


def errors(stage: str) -> list[type[BaseException]]:
    """Return the error classes defined anywhere in a stage's files, read without importing all of them."""
    for path in sources(stage):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef) and node.name.endswith(("Error", "Exception")):
                assert path.name == "errors.py", f"{path} defines {node.name}: errors live in {stage}/errors.py"
    module = importlib.import_module(f"{stage}.errors")
    return [one for _, one in inspect.getmembers(module, inspect.isclass) if one.__module__ == module.__name__]


@pytest.mark.parametrize("stage", STAGES)
def test_every_error_says_what_it_means_and_hangs_on_its_stages_root(stage: str) -> None:
    module = importlib.import_module(f"{stage}.errors")
    root = getattr(module, ROOT_ERRORS[stage])
    assert root.__mro__[1] is Exception
    found = errors(stage)
    assert root in found
    for error in found:
        assert issubclass(error, root), error
        assert "__doc__" in vars(error), f"{error} has no docstring"
        assert (error.__doc__ or "").strip(), f"{error} has no docstring"
        assert error.__name__ in (module.__doc__ or ""), f"{error} is not in the tree drawn in {stage}/errors.py"


def test_every_stage_has_what_its_neighbours_need() -> None:
    for stage in STAGES:
        assert (ROOT / stage / "__init__.py").exists()
        assert not [name for name in SEAMS if not (ROOT / stage / f"{name}.py").exists()]


# Names that stand for one thing in several places: entry points, a command and the function that it calls, and the
# learning rate over a run.
SHARED_NAMES = {"main", "index", "delete", "reindex", "train", "evaluate", "schedule"}


def test_no_two_classes_or_functions_share_a_name() -> None:
    places: dict[str, list[str]] = {}
    for path in (path for stage in STAGES for path in sources(stage)):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
                places.setdefault(node.name, []).append(str(path.relative_to(ROOT)))
    doubled = {name: paths for name, paths in places.items() if len(paths) > 1 and name not in SHARED_NAMES}
    assert doubled == {}
