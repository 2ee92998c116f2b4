"""Reads moderation policies from a YAML file; an error names the line and the field of the mistake.

The head of policies.yaml, the starter set, explains the format; `kinodex policies --print` prints it.

Regular expressions are those of RE2 (https://github.com/google/re2), which never backtracks and takes time linear in
the text. So /(a+)+$/, which is catastrophic elsewhere, is accepted. Expressions that need backtracking (backreferences,
lookaround) are refused, as are those that compile to more than MAX_PATTERN_BYTES.
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
from serve.files import read_regular_file

STARTER = Path(__file__).with_name("policies.yaml")
MAX_BYTES = 1 << 20  # of a file
MAX_DEPTH = 8  # of nested lists and mappings; a term stands at depth four
MAX_PATTERN_BYTES = 1 << 20  # of a compiled regular expression
MAX_PARENT_COUNT = 2  # with the label: a hierarchy of three levels
ID = re.compile(r"[a-z0-9]+(?:[._-][a-z0-9]+)*")
VISUAL_SETTINGS = ("auto", "on")
# The greatest value of each number; the least is 0.
LIMITS = {"enter": 1.0, "leave": 1.0, "min_seconds": 86_400.0, "cooldown_seconds": 86_400.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """A label, and the prompts and terms that find it in pictures, in speech and in the text of pictures."""

    policy_id: str
    label: str
    parents: tuple[str, ...] = ()  # broader labels, the broadest first
    shows: tuple[str, ...] = ()  # prompts: a picture that is near to any of them shows it
    unlike: tuple[str, ...] = ()  # prompts of what only looks like it
    visual: str = "auto"  # auto: pictures are off for an encoder that cannot tell them (visual_rules); on: never off
    says: tuple[str, ...] = ()  # words and phrases, found in any form and spelling
    patterns: tuple[str, ...] = ()  # RE2 regular expressions, beside `says`
    reads: tuple[str, ...] = ()  # words and phrases in the text of pictures, found as those of `says`
    read_patterns: tuple[str, ...] = ()  # RE2 regular expressions, beside `reads`
    enter: float = 0.7  # confidence, 0..1, from which an event begins
    leave: float = 0.5  # confidence below which it ends; at most `enter`
    min_seconds: float = 2.0  # shorter visual events are dropped
    cooldown_seconds: float = 30.0  # after an event, before the next may begin
    action: str = ""  # any text; it is delivered with the events
    collections: tuple[str, ...] = ()  # empty: all


@dataclass(frozen=True, slots=True, kw_only=True)
class Policies:
    """The policies of one file."""

    version: str
    policies: tuple[Policy, ...]


def read_policies(path: Path) -> Policies:
    """Read a file of policies.

    Raises:
        PolicyInvalid: For the first mistake, with line and field; or if the file cannot be read.
    """
    try:
        raw, _ = read_regular_file(path, MAX_BYTES)
    except OSError as error:
        raise PolicyInvalid(str(path), error.strerror or str(error)) from error
    return _PolicyReader(str(path)).read(raw)


class _PolicyReader:
    """Reads one file; its errors name the path."""

    def __init__(self, path: str) -> None:
        self.path = path

    def read(self, raw: bytes) -> Policies:
        fields = self._fields(self._compose(raw), "", {"version", "policies"}, required=("version", "policies"))
        policies: list[Policy] = []
        for number, node in enumerate(self._items(fields["policies"], "policies")):
            policy = self._policy(node, f"policies[{number}]")
            if any(policy.policy_id == other.policy_id for other in policies):
                raise self._error(node, f"policies[{number}].id", f"{policy.policy_id} is used twice")
            policies.append(policy)
        if not policies:
            raise self._error(fields["policies"], "policies", "must not be empty")
        return Policies(version=self._text(fields["version"], "version"), policies=tuple(policies))

    def _compose(self, raw: bytes) -> yaml.Node:
        try:
            self._check_size(raw)
            node = yaml.compose(raw, Loader=yaml.SafeLoader)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            line = None if mark is None else mark.line + 1
            raise PolicyInvalid(self.path, error.problem or "not YAML", line=line) from error
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise PolicyInvalid(self.path, f"not YAML: {' '.join(str(error).split())}") from error
        if node is None:
            raise PolicyInvalid(self.path, "the file is empty")
        return node

    def _check_size(self, raw: bytes) -> None:
        """Refuse YAML that would take long to read: deep nesting, and aliases, which copy copies of copies."""
        depth = 0
        for event in yaml.parse(raw, Loader=yaml.SafeLoader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if isinstance(event, yaml.AliasEvent):
                raise self._error(event, "", f"*{event.anchor} is an alias: write out what it stands for")
            if depth > MAX_DEPTH:
                raise self._error(event, "", "is nested too deeply")

    def _policy(self, node: yaml.Node, where: str) -> Policy:
        known = {
            "id", "label", "parents", "shows", "unlike", "visual", "says", "reads", "enter", "leave", "min_seconds",
            "cooldown_seconds", "action", "collections",
        }  # fmt: skip
        fields = self._fields(node, where, known, required=("id", "label"))
        values: dict[str, Any] = {
            "policy_id": self._text(fields["id"], f"{where}.id"),
            "label": self._text(fields["label"], f"{where}.label"),
        }
        if not ID.fullmatch(values["policy_id"]):
            raise self._error(fields["id"], f"{where}.id", "must be of a-z and 0-9, with . _ or - between them")
        for name in ("parents", "shows", "unlike", "collections"):
            if name in fields:
                values[name] = self._texts(fields[name], f"{where}.{name}")
        if len(values.get("parents", ())) > MAX_PARENT_COUNT:
            raise self._error(fields["parents"], f"{where}.parents", f"must hold at most {MAX_PARENT_COUNT}")
        if "says" in fields:
            values["says"], values["patterns"] = self._terms(fields["says"], f"{where}.says")
        if "reads" in fields:
            values["reads"], values["read_patterns"] = self._terms(fields["reads"], f"{where}.reads")
        if "visual" in fields:
            values["visual"] = self._text(fields["visual"], f"{where}.visual")
            if values["visual"] not in VISUAL_SETTINGS:
                reason = f"must be {' or '.join(VISUAL_SETTINGS)}, got {values['visual']}"
                raise self._error(fields["visual"], f"{where}.visual", reason)
        if "action" in fields:
            values["action"] = self._text(fields["action"], f"{where}.action")
        for name, greatest in LIMITS.items():
            if name in fields:
                values[name] = self._number(fields[name], f"{where}.{name}", greatest)
        if not {"shows", "says", "reads"} & set(fields):
            raise self._error(node, where, "needs shows, says or reads")
        for name in ("unlike", "visual"):
            if name in fields and "shows" not in fields:
                raise self._error(fields[name], f"{where}.{name}", "needs shows beside it")
        policy = Policy(**values)
        if policy.leave > policy.enter:
            place = fields.get("leave", fields.get("enter", node))
            raise self._error(place, f"{where}.leave", f"{policy.leave:g} is above enter = {policy.enter:g}")
        return policy

    def _fields(self, node: yaml.Node, where: str, known: set[str], required: Sequence[str]) -> dict[str, yaml.Node]:
        """Return the values of a mapping by their keys."""
        if not isinstance(node, yaml.MappingNode):
            raise self._error(node, where, "must be a mapping, key: value")
        values: dict[str, yaml.Node] = {}
        for key, value in node.value:
            name = key.value if isinstance(key, yaml.ScalarNode) else "?"
            field = f"{where}.{name}" if where else name
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                raise self._error(key, field, f"unknown field; is it {near[0]}?" if near else "unknown field")
            if name in values:
                raise self._error(key, field, "is given twice")
            values[name] = value
        for name in required:
            if name not in values:
                raise self._error(node, f"{where}.{name}" if where else name, "is missing")
        return values

    def _items(self, node: yaml.Node, where: str) -> list[yaml.Node]:
        if not isinstance(node, yaml.SequenceNode):
            raise self._error(node, where, "must be a list")
        return list(node.value)

    def _text(self, node: yaml.Node, where: str) -> str:
        if not isinstance(node, yaml.ScalarNode) or node.tag == "tag:yaml.org,2002:null" or not node.value.strip():
            raise self._error(node, where, "must be text that is not empty")
        text = str(node.value).strip()
        if any(unicodedata.category(character) in ("Cc", "Cs") for character in text):
            raise self._error(node, where, "must be one line of printable characters")
        return text

    def _texts(self, node: yaml.Node, where: str) -> tuple[str, ...]:
        texts = tuple(self._text(item, f"{where}[{n}]") for n, item in enumerate(self._items(node, where)))
        if not texts:
            raise self._error(node, where, "must not be empty")
        return texts

    def _terms(self, node: yaml.Node, where: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return the words and phrases, and the regular expressions, of a list of terms."""
        phrases, patterns = [], []
        for number, (text, item) in enumerate(zip(self._texts(node, where), self._items(node, where), strict=True)):
            if len(text) > 2 and text.startswith("/") and text.endswith("/"):
                try:
                    compile_pattern(text[1:-1])
                except ValueError as error:
                    raise self._error(item, f"{where}[{number}]", str(error)) from error
                patterns.append(text[1:-1])
            elif text.startswith("/"):
                reason = "a regular expression is written /like this/, not empty and without flags; case never matters"
                raise self._error(item, f"{where}[{number}]", reason)
            elif not stems(text):
                raise self._error(item, f"{where}[{number}]", "has no word that could be spoken or written")
            else:
                phrases.append(text)
        return tuple(phrases), tuple(patterns)

    def _number(self, node: yaml.Node, where: str, greatest: float) -> float:
        try:
            value = float(self._text(node, where))
        except ValueError:
            value = -1.0
        if not 0 <= value <= greatest:
            raise self._error(node, where, f"must be a number from 0 to {greatest:g}")
        return value

    def _error(self, place: yaml.Node | yaml.Event, field: str, reason: str) -> PolicyInvalid:
        line = None if place.start_mark is None else place.start_mark.line + 1
        return PolicyInvalid(self.path, reason, line=line, field=field)


def compile_pattern(pattern: str) -> Any:
    """Compile a policy's regular expression; it ignores case.

    Raises:
        ValueError: If RE2 refuses it, or if it matches the empty text.
    """
    options = re2.Options()
    options.case_sensitive, options.log_errors, options.max_mem = False, False, MAX_PATTERN_BYTES
    try:
        expression = re2.compile(pattern, options)
    except re2.error as error:
        reason = error.args[0].decode(errors="replace") if isinstance(error.args[0], bytes) else str(error)
        raise ValueError(f"not a regular expression of RE2: {reason}") from error
    if expression.search(""):
        raise ValueError("matches the empty text, and so everything")
    return expression
