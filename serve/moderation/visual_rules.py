"""Visual rules: whether the pictures of a policy are compared with its prompts, and why not.

A small encoder cannot tell everything. Which policies of the starter set the built-in encoder can tell is measured on
pictures that it was not trained on and on ordinary videos (benchmarks/policies.py), and stored beside its calibration.
The pictures of a policy that it cannot tell are off: they open no event, unless the policy file turns them on. Words
stay on. Prompts that were never measured, such as a user's own, are on, and their note says so.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from encoders.mini import FOLDER
from encoders.mini import NAME as MINI
from serve.moderation.policies import Policy

MEASURED = FOLDER / "policies.json"
MIN_PICTURES = 20  # pictures that show a thing; of fewer, a share says little
MIN_FOUND_SHARE = 0.5  # of these, that must reach the policy's threshold
MAX_WRONG_PER_HOUR = 1.0  # wrong events in ordinary videos


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleMeasurement:
    """How well one encoder tells the pictures of one policy."""

    label: str
    shows: tuple[str, ...]
    unlike: tuple[str, ...]
    enter: float  # the threshold, a confidence 0..1
    picture_count: int  # held-out pictures that show it; 0: there are none
    found_count: int  # of these, pictures that reach the threshold
    wrong_event_count: int  # in ordinary videos that do not show it
    hours: float  # of these videos

    @property
    def can_tell(self) -> bool:
        """Whether enough of the pictures are found, with few wrong events."""
        return (
            self.picture_count >= MIN_PICTURES
            and self.found_count >= MIN_FOUND_SHARE * self.picture_count
            and self.wrong_event_count <= MAX_WRONG_PER_HOUR * self.hours
        )

    def describe(self) -> str:
        """Return the result in a few words."""
        if not self.picture_count:
            return "not measured, as no picture of it was at hand"
        found = f"{self.found_count} of {self.picture_count} pictures of it reach {self.enter:g}"
        few = f", and {MIN_PICTURES} are needed to measure it" if self.picture_count < MIN_PICTURES else ""
        return f"{found}{few}; {self.wrong_event_count} wrong events in {self.hours:.1f} h of video"


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurements:
    """The measurements of one encoder."""

    fingerprint: str  # of the encoder
    rules: tuple[RuleMeasurement, ...]

    def of(self, policy: Policy) -> RuleMeasurement | None:
        """Return the measurement of a policy's prompts; None if they were never measured."""
        return next((rule for rule in self.rules if (rule.shows, rule.unlike) == (policy.shows, policy.unlike)), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class VisualRule:
    """Whether the pictures of a policy are compared with its prompts."""

    is_on: bool
    note: str  # why they are off, or how far the prompts may be trusted


def visual_rule(policy: Policy, encoder: str, fingerprint: str | None) -> VisualRule | None:
    """Return the state of a policy's pictures; None for a policy of words alone.

    Args:
        encoder: Name of the visual encoder, or "none".
        fingerprint: Of the encoder. None: that of the built-in encoder, if `encoder` names it; else unknown.
    """
    if not policy.shows:
        return None
    if encoder == "none":
        return VisualRule(is_on=False, note="the library has no visual encoder")
    measured = None
    if encoder == MINI and fingerprint in (None, shipped().fingerprint):
        measured = shipped().of(policy)
    if measured is None:
        return VisualRule(is_on=True, note=f"{encoder} was never measured on these prompts")
    if measured.can_tell:
        return VisualRule(is_on=True, note=measured.describe())
    note = f"{encoder} cannot tell {measured.label}: {measured.describe()}"
    is_on = policy.visual == "on"
    return VisualRule(is_on=is_on, note=f"on by the policy file, though {note}" if is_on else note)


@cache
def shipped() -> Measurements:
    """Return the measurements of the built-in encoder."""
    return read_measurements(MEASURED)


def read_measurements(path: Path) -> Measurements:
    """Read measurements as write_measurements() wrote them."""
    values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    rules = (
        RuleMeasurement(**{**rule, "shows": tuple(rule["shows"]), "unlike": tuple(rule["unlike"])})
        for rule in values["rules"]
    )
    return Measurements(fingerprint=values["fingerprint"], rules=tuple(rules))


def write_measurements(path: Path, fingerprint: str, rules: Sequence[RuleMeasurement]) -> None:
    """Store the measurements of one encoder in place of those before."""
    values = asdict(Measurements(fingerprint=fingerprint, rules=tuple(rules)))
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
