"""A figure of ours beside a reference's. Every benchmark writes them with --ratios, and `make bench` collects them."""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """Both measured in one run, on the same bytes and the same machine."""

    name: str  # "sampling: fast, keyframe every 2.0 s"
    ours: float
    reference: float
    unit: str  # of both: "CPU s per video hour"
    against: str  # what the reference is: "ffmpeg -vf fps=1"
    target: str = ""  # of ours / reference: "<= 0.5", ">= 3"; empty: there is none
    bounded_by: str = ""  # one sentence: what holds it where it is

    def __post_init__(self) -> None:
        if self.reference <= 0:
            raise ValueError(f"{self.name}: reference must be > 0, got {self.reference}")
        if self.target and self.target.split()[0] not in ("<=", ">="):
            raise ValueError(f"target must be '<= X' or '>= X', got {self.target!r}")

    @property
    def ratio(self) -> float:
        return self.ours / self.reference

    @property
    def met(self) -> bool | None:
        """Whether the ratio, as printed, reaches the target; None: there is none."""
        if not self.target:
            return None
        sense, bound = self.target.split()
        return round(self.ratio, 3) <= float(bound) if sense == "<=" else round(self.ratio, 3) >= float(bound)

    def as_json(self) -> dict[str, Any]:
        rounded = {"ours": float(f"{self.ours:.4g}"), "reference": float(f"{self.reference:.4g}")}
        return {**asdict(self), **rounded, "ratio": round(self.ratio, 3), "met": self.met}


def add_ratios_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--ratios", type=Path, metavar="FILE", help="also write the figures as `make bench` reads them")


def write_ratios(path: Path | None, ratios: Sequence[Ratio]) -> None:
    """Write them as a JSON list; no path: nothing."""
    if path is not None:
        path.write_text(json.dumps([one.as_json() for one in ratios], indent=1) + "\n")
