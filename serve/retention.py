"""Retention: how long the live videos of each collection are kept, as server.retention says."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

EVERY_OTHER = "*"  # stands for all collections that are not named
SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
BYTES = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
AMOUNT = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """How much of the live videos of one collection is kept."""

    age_seconds: float = math.inf  # since a segment was recorded, or appended to Kafka
    size_bytes: float = math.inf  # of all live videos of the collection together

    def __post_init__(self) -> None:
        for name in ("age_seconds", "size_bytes"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be > 0, got {getattr(self, name)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """The limits of all collections."""

    limits: Mapping[str, Limit] = field(default_factory=lambda: MappingProxyType({}))  # by collection, or EVERY_OTHER

    def of(self, collection: str) -> Limit | None:
        """Return a collection's limit; None: everything is kept."""
        return self.limits.get(collection) or self.limits.get(EVERY_OTHER)

    def __bool__(self) -> bool:
        """Whether anything is ever pruned."""
        return bool(self.limits)


def parse_retention(texts: Sequence[str]) -> Retention:
    """Parse server.retention: "cams=7d", "default=30d,50GiB", "*=1d".

    Environment variables are split at their commas, so a text without a collection adds to the collection before it.

    Raises:
        ValueError: If a text has no limit, or repeats a collection or a kind of limit.
    """
    amounts: dict[str, dict[str, float]] = {}
    collection = ""
    for text in texts:
        name, equals, listed = text.partition("=")
        if not equals:
            listed = text
        else:
            collection = name.strip()
            if collection in amounts:
                raise ValueError(f"retention names the collection {collection!r} twice")
            amounts[collection] = {}
        if not collection:
            raise ValueError(f"retention must be like cams=7d or cams=7d,50GiB (* is every other), got {text!r}")
        for part in listed.split(","):
            kind, amount = _parse_amount(part, text)
            if kind in amounts[collection]:
                raise ValueError(f"retention of {collection} has two limits of one kind: {text!r}")
            amounts[collection][kind] = amount
    return Retention(limits=MappingProxyType({name: Limit(**limits) for name, limits in amounts.items()}))


def _parse_amount(part: str, text: str) -> tuple[str, float]:
    match = AMOUNT.fullmatch(part.strip())
    if match is not None:
        amount, unit = float(match[1]), match[2]
        for kind, units in (("age_seconds", SECONDS), ("size_bytes", BYTES)):
            if unit in units and amount > 0:
                return kind, amount * units[unit]
    raise ValueError(
        f"retention must give each collection an age (s, m, h, d, w), a size ({', '.join(BYTES)}) or both, as in"
        f" cams=7d,50GiB; got {part.strip()!r} in {text!r}"
    )
