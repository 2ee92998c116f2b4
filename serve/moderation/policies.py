"""Moderation policies: what to look and listen for. A YAML file, in which every mistake has its line and field.

The format is explained at the head of policies.yaml, the starter set; `kinodex policies --print` prints it.

Regular expressions are RE2's (https://github.com/google/re2). What makes others catastrophic, /(a+)+$/ say, is taken,
as it cannot hurt: RE2 never goes back, and takes time linear in what is said. What needs going back (backreferences,
lookaround) cannot be written in it, and is refused, as is what compiles to more than MAX_PATTERN_BYTES.
"""

import difflib
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import re2
import yaml

from serve.catalog.spelling import stems
from serve.errors import PolicyInvalid

STARTER = Path(__file__).with_name("policies.yaml")
MAX_BYTES = 1 << 20
MAX_DEPTH = 8  # a term is at four
MAX_PATTERN_BYTES = 1 << 20  # of a compiled regular expression
MAX_PARENTS = 2  # and the label: three levels
ID = re.compile(r"[a-z0-9]+(?:[._-][a-z0-9]+)*")
LIMITS = {
    "enter": 1.0,
    "leave": 1.0,
    "min_seconds": 86_400.0,
    "cooldown_seconds": 86_400.0,
}  # the greatest values; the least is 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """One thing to look and listen for."""

    policy_id: str
    label: str
    parents: tuple[str, ...] = ()  # the broadest first
    shows: tuple[str, ...] = ()  # prompts
    unlike: tuple[str, ...] = ()  # prompts of what is not meant
    says: tuple[str, ...] = ()  # words and phrases
    patterns: tuple[str, ...] = ()  # RE2 regular expressions
    enter: float = 0.7  # confidence, 0..1
    leave: float = 0.5  # at most `enter`
    min_seconds: float = 2.0
    cooldown_seconds: float = 30.0
    action: str = ""
    collections: tuple[str, ...] = ()  # none: all


@dataclass(frozen=True, slots=True, kw_only=True)
class Policies:
    """What a file says."""

    version: str
    policies: tuple[Policy, ...]


def read_policies(path: Path) -> Policies:
    """Read a file of policies.

    Raises:
        PolicyInvalid: With line and field, for the first mistake in it; or if it cannot be read.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise PolicyInvalid(str(path), error.strerror or str(error)) from error
    if len(raw) > MAX_BYTES:
        raise PolicyInvalid(str(path), f"larger than {MAX_BYTES >> 20} MiB")
    return _Reader(str(path)).policies(raw)


class _Reader:
    """Reads one file; knows its name."""

    def __init__(self, path: str) -> None:
        self.path = path

    def policies(self, raw: bytes) -> Policies:
        fields = self.fields(self.parsed(raw), "", {"version", "policies"}, required=("version", "policies"))
        listed = self.items(fields["policies"], "policies")
        found: list[Policy] = []
        for number, node in enumerate(listed):
            policy = self.policy(node, f"policies[{number}]")
            if any(policy.policy_id == other.policy_id for other in found):
                raise self.wrong(node, f"policies[{number}].id", f"{policy.policy_id} is there twice")
            found.append(policy)
        if not found:
            raise self.wrong(fields["policies"], "policies", "there is none")
        return Policies(version=self.text(fields["version"], "version"), policies=tuple(found))

    def parsed(self, raw: bytes) -> yaml.Node:
        try:
            self.check(raw)
            node = yaml.compose(raw, Loader=yaml.SafeLoader)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            line = None if mark is None else mark.line + 1
            raise PolicyInvalid(self.path, error.problem or "not YAML", line=line) from error
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise PolicyInvalid(self.path, f"not YAML: {' '.join(str(error).split())}") from error
        if node is None:
            raise PolicyInvalid(self.path, "it is empty")
        return node

    def check(self, raw: bytes) -> None:
        """Refuse what would take long to read: deep nesting, and copies of copies of copies."""
        depth = 0
        for event in yaml.parse(raw, Loader=yaml.SafeLoader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if isinstance(event, yaml.AliasEvent):
                raise self.wrong(event, "", f"*{event.anchor}: write it out")
            if depth > MAX_DEPTH:
                raise self.wrong(event, "", "nested too deeply")

    def policy(self, node: yaml.Node, where: str) -> Policy:
        known = {
            "id", "label", "parents", "shows", "unlike", "says", "enter", "leave", "min_seconds", "cooldown_seconds",
            "action", "collections",
        }  # fmt: skip
        fields = self.fields(node, where, known, required=("id", "label"))
        values: dict[str, Any] = {
            "policy_id": self.text(fields["id"], f"{where}.id"),
            "label": self.text(fields["label"], f"{where}.label"),
        }
        if not ID.fullmatch(values["policy_id"]):
            raise self.wrong(fields["id"], f"{where}.id", "must be of a-z and 0-9, with . _ or - between them")
        for name in ("parents", "shows", "unlike", "collections"):
            if name in fields:
                values[name] = self.texts(fields[name], f"{where}.{name}")
        if len(values.get("parents", ())) > MAX_PARENTS:
            raise self.wrong(fields["parents"], f"{where}.parents", f"at most {MAX_PARENTS}")
        if "says" in fields:
            values["says"], values["patterns"] = self.terms(fields["says"], f"{where}.says")
        if "action" in fields:
            values["action"] = self.text(fields["action"], f"{where}.action")
        for name, greatest in LIMITS.items():
            if name in fields:
                values[name] = self.number(fields[name], f"{where}.{name}", greatest)
        if "shows" not in fields and "says" not in fields:
            raise self.wrong(node, where, "it needs shows or says")
        if "unlike" in fields and "shows" not in fields:
            raise self.wrong(fields["unlike"], f"{where}.unlike", "it goes with shows")
        policy = Policy(**values)
        if policy.leave > policy.enter:
            place = fields.get("leave", fields.get("enter", node))
            raise self.wrong(place, f"{where}.leave", f"{policy.leave:g} is above enter = {policy.enter:g}")
        return policy

    # ---- values

    def fields(self, node: yaml.Node, where: str, known: set[str], required: Sequence[str]) -> dict[str, yaml.Node]:
        """Return a mapping's values by their keys."""
        if not isinstance(node, yaml.MappingNode):
            raise self.wrong(node, where, "must be a mapping, key: value")
        found: dict[str, yaml.Node] = {}
        for key, value in node.value:
            name = key.value if isinstance(key, yaml.ScalarNode) else "?"
            field = f"{where}.{name}" if where else name
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                raise self.wrong(key, field, f"unknown field; is it {near[0]}?" if near else "unknown field")
            if name in found:
                raise self.wrong(key, field, "it is there twice")
            found[name] = value
        for name in required:
            if name not in found:
                raise self.wrong(node, f"{where}.{name}" if where else name, "it is missing")
        return found

    def items(self, node: yaml.Node, where: str) -> list[yaml.Node]:
        if not isinstance(node, yaml.SequenceNode):
            raise self.wrong(node, where, "must be a list")
        return list(node.value)

    def text(self, node: yaml.Node, where: str) -> str:
        if not isinstance(node, yaml.ScalarNode) or node.tag == "tag:yaml.org,2002:null" or not node.value.strip():
            raise self.wrong(node, where, "must be a text, and not empty")
        text = str(node.value).strip()
        if any(unicodedata.category(character) in ("Cc", "Cs") for character in text):
            raise self.wrong(node, where, "must be one line of characters that can be printed")
        return text

    def texts(self, node: yaml.Node, where: str) -> tuple[str, ...]:
        found = tuple(self.text(one, f"{where}[{n}]") for n, one in enumerate(self.items(node, where)))
        if not found:
            raise self.wrong(node, where, "it is empty")
        return found

    def terms(self, node: yaml.Node, where: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return words and phrases, and regular expressions."""
        said, patterns = [], []
        for number, (text, item) in enumerate(zip(self.texts(node, where), self.items(node, where), strict=True)):
            if len(text) > 2 and text.startswith("/") and text.endswith("/"):
                try:
                    compile_pattern(text[1:-1])
                except ValueError as error:
                    raise self.wrong(item, f"{where}[{number}]", str(error)) from error
                patterns.append(text[1:-1])
            elif text.startswith("/"):
                reason = "a regular expression is written /like this/: not empty, nothing behind it; case never counts"
                raise self.wrong(item, f"{where}[{number}]", reason)
            elif not stems(text):
                raise self.wrong(item, f"{where}[{number}]", "there is no word in it that could be heard")
            else:
                said.append(text)
        return tuple(said), tuple(patterns)

    def number(self, node: yaml.Node, where: str, greatest: float) -> float:
        try:
            value = float(self.text(node, where))
        except ValueError:
            value = -1.0
        if not 0 <= value <= greatest:
            raise self.wrong(node, where, f"must be a number from 0 to {greatest:g}")
        return value

    def wrong(self, place: yaml.Node | yaml.Event, field: str, reason: str) -> PolicyInvalid:
        line = None if place.start_mark is None else place.start_mark.line + 1
        return PolicyInvalid(self.path, reason, line=line, field=field)


def compile_pattern(pattern: str) -> Any:
    """Compile a policy's regular expression; case does not count.

    Raises:
        ValueError: If it is none that RE2 takes, or matches what is not there.
    """
    options = re2.Options()
    options.case_sensitive, options.log_errors, options.max_mem = False, False, MAX_PATTERN_BYTES
    try:
        found = re2.compile(pattern, options)
    except re2.error as error:
        reason = error.args[0].decode(errors="replace") if isinstance(error.args[0], bytes) else str(error)
        raise ValueError(f"not a regular expression of RE2: {reason}") from error
    if found.search(""):
        raise ValueError("it matches nothing said at all")
    return found
