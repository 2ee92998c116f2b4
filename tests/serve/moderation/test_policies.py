"""Files of moderation policies: valid files are read, and each mistake has its line and field."""

import json
import os
from dataclasses import fields
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from serve.cli.main import cli
from serve.errors import PolicyInvalid
from serve.moderation.policies import MAX_BYTES, STARTER, Policy, compile_pattern, read_policies

VALID = """\
version: 2026.11
policies:
  - id: weapons.gun
    label: Gun
    parents: [Violence, Weapons]
    shows: [a person holding a gun, " a rifle "]
    unlike: [a camera]
    says: [gun, "drop the weapon", '/shoot(?:ing|er)s?/', and/or]
    enter: 0.8
    leave: 0.6
    min_seconds: 3
    cooldown_seconds: 0
    action: review
    collections: [uploads]
  - {id: fire, label: Fire, shows: [a house on fire]}
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "p.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["policies", *map(str, arguments)])


def test_reads_every_field(tmp_path: Path) -> None:
    policies = read_policies(write(tmp_path, VALID))
    assert policies.version == "2026.11"
    assert policies.policies == (
        Policy(
            policy_id="weapons.gun", label="Gun", parents=("Violence", "Weapons"),
            shows=("a person holding a gun", "a rifle"), unlike=("a camera",),
            says=("gun", "drop the weapon", "and/or"), patterns=("shoot(?:ing|er)s?",), enter=0.8, leave=0.6,
            min_seconds=3.0, cooldown_seconds=0.0, action="review", collections=("uploads",),
        ),
        Policy(policy_id="fire", label="Fire", shows=("a house on fire",)),
    )  # fmt: skip


ONE = "version: 1\npolicies:\n  - id: fire\n    label: Fire\n    shows: [fire]\n"


@pytest.mark.parametrize(
    ("text", "line", "field", "reason"),
    [
        (ONE + "    lable: x\n", 6, "policies[0].lable", "unknown field; is it label?"),
        (ONE + "    zzz: x\n", 6, "policies[0].zzz", "unknown field"),
        (ONE + "    label: x\n", 6, "policies[0].label", "is given twice"),
        (ONE + "    enter: 0.4\n    leave: 0.5\n", 7, "policies[0].leave", "0.5 is above enter = 0.4"),
        (ONE + "    enter: 0.4\n", 6, "policies[0].leave", "0.5 is above enter = 0.4"),
        (ONE + "    enter: 1.5\n", 6, "policies[0].enter", "must be a number from 0 to 1"),
        (ONE + "    enter: high\n", 6, "policies[0].enter", "must be a number from 0 to 1"),
        (ONE + "    enter: .nan\n", 6, "policies[0].enter", "must be a number from 0 to 1"),
        (ONE + "    min_seconds: -1\n", 6, "policies[0].min_seconds", "must be a number from 0 to 86400"),
        (ONE.replace("[fire]", "[]"), 5, "policies[0].shows", "must not be empty"),
        (ONE.replace("[fire]", "[fire, '']"), 5, "policies[0].shows[1]", "must be text that is not empty"),
        (ONE.replace("[fire]", "[fire, [x]]"), 5, "policies[0].shows[1]", "must be text that is not empty"),
        (ONE.replace("[fire]", "fire"), 5, "policies[0].shows", "must be a list"),
        (ONE.replace("shows: [fire]", "action: x"), 3, "policies[0]", "needs shows, says or reads"),
        (ONE.replace("shows: [fire]", "says: [x]\n    unlike: [y]"), 6, "policies[0].unlike", "needs shows beside it"),
        (ONE.replace("shows: [fire]", "says: [x]\n    visual: on"), 6, "policies[0].visual", "needs shows beside it"),
        (ONE + "    visual: yes\n", 6, "policies[0].visual", "must be auto or on, got yes"),
        (ONE.replace("id: fire", "id: Fire!"), 3, "policies[0].id", "must be of a-z and 0-9"),
        (ONE.replace("label: Fire", "label:"), 4, "policies[0].label", "must be text that is not empty"),
        (ONE + "    parents: [a, b, c]\n", 6, "policies[0].parents", "at most 2"),
        (ONE + "  - id: fire\n    label: F\n    shows: [x]\n", 6, "policies[1].id", "fire is used twice"),
        (ONE + "    says: ['/(/']\n", 6, "policies[0].says[0]", "not a regular expression of RE2: missing )"),
        (ONE + "    says: [x, '/(?=a)/']\n", 6, "policies[0].says[1]", "not a regular expression of RE2"),
        (ONE + "    says: ['/(a{900}){900}/']\n", 6, "policies[0].says[0]", "not a regular expression of RE2"),
        (ONE + "    reads: [x, '/x*/']\n", 6, "policies[0].reads[1]", "matches the empty text"),
        (ONE + "    says: ['/x*/']\n", 6, "policies[0].says[0]", "matches the empty text"),
        (ONE + "    says: [x, '//']\n", 6, "policies[0].says[1]", "a regular expression is written /like this/"),
        (ONE + "    says: [/gun/i]\n", 6, "policies[0].says[0]", "a regular expression is written /like this/"),
        (ONE + "    says: [gun, '???']\n", 6, "policies[0].says[1]", "has no word that could be spoken"),
        (ONE + '    action: "Sp\\ud800ace"\n', 6, "policies[0].action", "printable characters"),
        (ONE.replace("[fire]", r'["a\0b"]'), 5, "policies[0].shows[0]", "printable characters"),
        (ONE.replace("label: Fire", r'label: "\e[2J!"'), 4, "policies[0].label", "printable characters"),
        (
            ONE + '    collections: [a, "b\\u0085c"]\n',
            6,
            "policies[0].collections[1]",
            "printable characters",
        ),
        (ONE.replace("version: 1\n", ""), 1, "version", "is missing"),
        ("version: 1\npolicies: []\n", 2, "policies", "must not be empty"),
        ("version: 1\npolicies: [3]\n", 2, "policies[0]", "must be a mapping"),
        ("[1, 2]\n", 1, "", "must be a mapping"),
        ("version: &a 1\npolicies: [*a]\n", 2, "", "*a is an alias"),
    ],
)
def test_each_mistake_has_its_line_and_field(tmp_path: Path, text: str, line: int, field: str, reason: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(PolicyInvalid) as caught:
        read_policies(path)
    assert (caught.value.line, caught.value.field) == (line, field)
    assert str(caught.value).startswith(f"cannot use policies {path}, line {line}: {field}")
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"", "the file is empty"),
        (b"version: [1\n", "line 2: "),
        (b"version: \xff\n", "not YAML"),
        (b"version: \x00\n", "not YAML"),
        (b"[" * 100_000, "line 1: is nested too deeply"),
        (b"#" * (MAX_BYTES + 1), "larger than 1 MiB"),
    ],
)
def test_errors_of_files_that_are_not_yaml_are_one_line(tmp_path: Path, raw: bytes, reason: str) -> None:
    (tmp_path / "p.yaml").write_bytes(raw)
    with pytest.raises(PolicyInvalid) as caught:
        read_policies(tmp_path / "p.yaml")
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_no_regular_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "p.yaml")
    for path in (tmp_path / "p.yaml", Path("/dev/zero"), tmp_path):
        with pytest.raises(PolicyInvalid, match="not a regular file"):
            read_policies(path)


def test_a_catastrophic_expression_takes_linear_time() -> None:
    """Python's re takes exponential time for this expression."""
    assert compile_pattern("(a+)+$").search("a" * 100_000 + "!") is None
    assert compile_pattern("KILL(ed)?").search("he killed time")


def test_the_example_of_the_format_is_valid(tmp_path: Path) -> None:
    head = STARTER.read_text(encoding="utf-8").partition("\nversion:")[0]
    example = "\n".join(line[4:] for line in head.splitlines() if line.startswith("#   "))
    (found,) = read_policies(write(tmp_path, example)).policies
    assert (found.says, found.patterns) == (("gun", "drop the weapon"), ("shoot(?:ing|er)s?",))
    assert (found.reads, found.read_patterns) == (("gun shop",), ("AK-?47",))
    assert set(example.split()) >= {
        f"{one.name}:" for one in fields(Policy) if one.name not in ("policy_id", "patterns", "read_patterns")
    }
    plain = Policy(policy_id="x", label="x")
    for name in ("enter", "leave", "min_seconds", "cooldown_seconds"):
        assert getattr(found, name) == getattr(plain, name)


def test_the_command_shows_the_starter_set() -> None:
    shown = run()
    assert shown.exit_code == 0, shown.output
    assert "violence.weapon" in shown.output
    assert shown.output.endswith("13 policies, no mistakes\n")
    assert run("--print").stdout == STARTER.read_text(encoding="utf-8")
    ids = {one["policy_id"] for one in json.loads(run("--json").stdout)["policies"]}
    assert ids >= {"self-harm", "nudity.explicit", "hate.symbol", "accident.vehicle", "flood", "crowd", "gambling"}


def test_the_command_names_the_first_mistake(tmp_path: Path) -> None:
    path = write(tmp_path, ONE + "    lable: x\n")
    result = run(path)
    assert (result.exit_code, result.stdout) == (1, "")
    where = f"kinodex: error: cannot use policies {path}, line 6: policies[0].lable: "
    assert result.stderr == where + "unknown field; is it label?\n"
    assert run(tmp_path / "none.yaml").stderr.endswith("none.yaml: No such file or directory\n")


def test_the_command_takes_a_file_of_any_encoding_and_labels_that_look_like_markup(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_bytes(ONE.replace("label: Fire", "label: 'F[/]ire'").encode("utf-16"))
    assert run(path, "--print").stdout_bytes == path.read_bytes()
    assert "F[/]ire" in run(path).stdout
