"""The locks, from which the container is installed, agree with pyproject.toml and constraints.txt."""

import json
import re
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
HASH = re.compile(r"--hash=sha256:[0-9a-f]{64}")
CALL = "run make lock"


def locked() -> dict[str, list[Requirement]]:
    """Return the requirements of the locks by name. Several of one name differ in their markers, or are the same."""
    found: dict[str, list[Requirement]] = {}
    text = "".join((ROOT / f"{name}.lock").read_text("utf-8") for name in ("requirements", "requirements-build"))
    for entry in re.split(r"\n(?=\S)", re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE)):
        requirement = Requirement(HASH.sub("", entry.replace("\\\n", " ")).strip())
        assert HASH.search(entry), f"{requirement.name} has no hash: {CALL}"
        found.setdefault(canonicalize_name(requirement.name), []).append(requirement)
    return found


@pytest.mark.parametrize("text", PROJECT["project"]["dependencies"] + PROJECT["build-system"]["requires"])
def test_every_dependency_is_locked_to_a_version_that_the_project_allows(text: str) -> None:
    wanted = Requirement(text)
    entries = locked().get(canonicalize_name(wanted.name), [])
    assert entries, f"{wanted.name} is not locked: {CALL}"
    for entry in entries:
        [version] = entry.specifier
        assert version.operator == "=="
        assert wanted.specifier.contains(version.version, prereleases=True), f"{entry}: {CALL}"


def test_the_lock_has_the_tested_versions() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    tested = {canonicalize_name(name): version for name, _, version in (line.partition("==") for line in lines)}
    entries = {name: requirements for name, requirements in locked().items() if name in tested}
    assert len(entries) > 50
    differing = [
        str(entry)
        for name, requirements in entries.items()
        for entry in requirements
        if not entry.specifier.contains(tested[name])
    ]
    assert differing == [], CALL


def test_the_container_installs_only_what_is_locked() -> None:
    compose = (ROOT / "compose.yaml").read_text(encoding="utf-8")
    installs = re.findall(r"RUN pip install (.*)", compose)
    assert installs == [
        "--no-cache-dir --require-hashes --requirement requirements-build.lock",
        "--no-cache-dir --require-hashes --no-build-isolation --requirement requirements.lock",
        "--no-cache-dir --no-deps --no-build-isolation .",  # Kinodex itself
    ]


@pytest.mark.slow
def test_make_sbom_lists_every_dependency_with_its_version(tmp_path: Path) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    recipe = re.search(
        r"cyclonedx-py (environment .*) --output-file \S+ \\\n\s+\$\(ENVIRONMENT\)/bin/python\n", makefile
    )
    assert recipe is not None
    command = [sys.executable, "-m", "cyclonedx_py", *recipe[1].split(), "--output-file", str(tmp_path / "sbom.json")]
    # Unvalidated: checking it against the schema of CycloneDX, as make sbom does, takes most of a minute.
    subprocess.run([*command, "--no-validate", sys.executable], check=True, cwd=ROOT)
    document = json.loads((tmp_path / "sbom.json").read_text(encoding="utf-8"))
    assert document["bomFormat"] == "CycloneDX"
    assert document["metadata"]["component"]["name"] == "kinodex"
    listed = {canonicalize_name(each["name"]): each["version"] for each in document["components"]}
    for text in PROJECT["project"]["dependencies"]:
        wanted = Requirement(text)
        if wanted.marker is None or wanted.marker.evaluate():
            assert listed[canonicalize_name(wanted.name)] == version(wanted.name)
