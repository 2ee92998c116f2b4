"""A figure of ours beside a reference's. Every benchmark writes them with --ratios, and `make bench` collects them."""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """A figure of ours and its reference, measured in the same run, on the same bytes and machine."""

    name: str  # "sampling: fast, keyframe every 2.0 s"
    ours: float
    reference: float
    unit: str  # unit of both figures: "CPU s per video hour"
    against: str  # name of the reference: "ffmpeg -vf fps=1"
    target: str = ""  # bound for ours / reference: "<= 0.5", ">= 3"; empty: no target
    bounded_by: str = ""  # a sentence on what limits the figure

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
        """Whether the printed ratio reaches the target; None without a target."""
        if not self.target:
            return None
        sense, bound = self.target.split()
        return round(self.ratio, 3) <= float(bound) if sense == "<=" else round(self.ratio, 3) >= float(bound)

    def as_json(self) -> dict[str, Any]:
        rounded = {"ours": float(f"{self.ours:.4g}"), "reference": float(f"{self.reference:.4g}")}
        return {**asdict(self), **rounded, "ratio": round(self.ratio, 3), "met": self.met}


def add_ratios_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--ratios", type=Path, metavar="FILE", help="also write the figures for `make bench`")


def write_ratios(path: Path | None, ratios: Sequence[Ratio]) -> None:
    """Write ratios as a JSON list; without a path, do nothing."""
    if path is not None:
        path.write_text(json.dumps([one.as_json() for one in ratios], indent=1) + "\n")
