"""How long live videos are kept, a collection: what server.retention says."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

EVERY_OTHER = "*"  # stands for the collections that are not named
SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
BYTES = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
AMOUNT = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """What is kept of the live videos of one collection."""

    age_seconds: float = math.inf  # of what was recorded, or was appended, longer ago
    size_bytes: float = math.inf  # of all of them together

    def __post_init__(self) -> None:
        for name in ("age_seconds", "size_bytes"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be > 0, got {getattr(self, name)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """The limits of all collections."""

    limits: Mapping[str, Limit] = field(default_factory=lambda: MappingProxyType({}))  # by collection, or EVERY_OTHER

    def of(self, collection: str) -> Limit | None:
        """Return a collection's limit; None: all of it is kept."""
        return self.limits.get(collection) or self.limits.get(EVERY_OTHER)

    def __bool__(self) -> bool:
        """Whether anything is ever pruned."""
        return bool(self.limits)


def parse_retention(texts: Sequence[str]) -> Retention:
    """Read what server.retention says: "cams=7d", "default=30d,50GiB", "*=1d".

    A variable's value is split at its commas, so a text without a collection goes on with that of the text before.

    Raises:
        ValueError: If one says nothing, or says it twice.
    """
    found: dict[str, dict[str, float]] = {}
    collection = ""
    for text in texts:
        name, equals, amounts = text.partition("=")
        if not equals:
            amounts = text
        else:
            collection = name.strip()
            if collection in found:
                raise ValueError(f"retention names the collection {collection!r} twice")
            found[collection] = {}
        if not collection:
            raise ValueError(f"retention must be like cams=7d or cams=7d,50GiB (* is every other), got {text!r}")
        for part in amounts.split(","):
            kind, amount = _amount(part, text)
            if kind in found[collection]:
                raise ValueError(f"retention of {collection} has two limits of one kind: {text!r}")
            found[collection][kind] = amount
    return Retention(limits=MappingProxyType({name: Limit(**given) for name, given in found.items()}))


def _amount(part: str, text: str) -> tuple[str, float]:
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
