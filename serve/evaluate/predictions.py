"""Measures predicted moments against true moments, for `kinodex eval --predictions`. The files are QVHighlights'."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serve.errors import PredictionsInvalid
from temporal.metrics import (
    Localisation,
    Localised,
    Rejection,
    measure_by_length,
    measure_localisation,
    measure_rejection,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictionScores:
    """The scores of one file of predictions."""

    parts: Mapping[str, Localisation]  # "full", then each length bucket that has a true window; absent queries left out
    rejection: Rejection | None  # of absent queries, which have no true window; None: there are none


def evaluate_files(predictions: Path, truth: Path) -> PredictionScores:
    """Measure a file of predictions against a file of true windows.

    A query without predictions counts as answered wrongly. A query without true windows asks for an absent event, and
    predicting nothing is right.

    Args:
        predictions: JSON lines of `qid` and `pred_relevant_windows`: [start, end, …] in seconds, the best first.
        truth: JSON lines of `qid` and `relevant_windows`: [start, end] in seconds.
    Raises:
        PredictionsInvalid: If a file cannot be read, is not in this format or names a query twice, or if the truth
            lacks a predicted query.
    """
    predicted, true = _read_windows(predictions, "pred_relevant_windows"), _read_windows(truth, "relevant_windows")
    unknown = next((qid for qid in predicted if qid not in true), None)
    if unknown is not None:
        raise PredictionsInvalid(
            str(predictions), f"qid {unknown} is not in {truth}: do the files hold the same queries?"
        )
    nothing = np.empty((0, 2))
    present = [
        Localised(predicted=predicted.get(qid, nothing), truth=windows) for qid, windows in true.items() if len(windows)
    ]
    if not present:
        raise PredictionsInvalid(str(truth), "no query has a relevant window")
    absent = [not len(windows) for windows in true.values()]
    rejected = [not len(predicted.get(qid, nothing)) for qid in true]
    return PredictionScores(
        parts={"full": measure_localisation(present)} | dict(reversed(measure_by_length(present).items())),
        rejection=measure_rejection(absent, rejected) if any(absent) else None,
    )


def prediction_figures(scores: PredictionScores) -> dict[str, float]:
    """Return the figures under QVHighlights' names, in per cent with two decimals; mIoU and n are additions."""
    figures: dict[str, float] = {}
    for name, part in scores.parts.items():
        values = {
            "R1@0.5": part.recall[0.5],
            "R1@0.7": part.recall[0.7],
            "mAP": part.mean_average_precision,
            "mAP@0.5": part.average_precision[0.5],
            "mAP@0.75": part.average_precision[0.75],
            "mIoU": part.mean_iou,
        }
        figures |= {f"MR-{name}-{key}": round(100 * value, 2) for key, value in values.items()}
        figures[f"MR-{name}-n"] = part.query_count
    if scores.rejection is not None:
        figures |= {
            "absent-precision": round(100 * scores.rejection.precision, 2),
            "absent-recall": round(100 * scores.rejection.recall, 2),
            "absent-F1": round(100 * scores.rejection.f1, 2),
            "absent-n": scores.rejection.absent_count,
        }
    return figures


def _read_windows(path: Path, field: str) -> dict[str, NDArray[np.float64]]:
    """Read the windows of each query by its id: float64 (N, 2), start and end in seconds."""
    windows_by_query: dict[str, NDArray[np.float64]] = {}
    try:
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                if not line.strip():
                    continue
                qid, windows = _parse_line(line, field, f"line {number}", path)
                if qid in windows_by_query:
                    raise PredictionsInvalid(str(path), f"line {number}: qid {qid} occurs twice")
                windows_by_query[qid] = windows
    except OSError as error:
        raise PredictionsInvalid(str(path), error.strerror or str(error)) from error
    except UnicodeDecodeError as error:
        raise PredictionsInvalid(str(path), "not UTF-8 text") from error
    if not windows_by_query:
        raise PredictionsInvalid(str(path), "the file is empty")
    return windows_by_query


def _parse_line(line: str, field: str, where: str, path: Path) -> tuple[str, NDArray[np.float64]]:
    try:
        row: Any = json.loads(line)
        windows = np.array([[float(window[0]), float(window[1])] for window in row[field]], np.float64).reshape(-1, 2)
        qid = str(row["qid"])
    except (ValueError, KeyError, TypeError, IndexError, RecursionError) as error:
        row_format = f'{{"qid": …, "{field}": [[start, end], …]}}'
        raise PredictionsInvalid(str(path), f"{where} is not {row_format}") from error
    if not np.isfinite(windows).all() or (windows[:, 0] > windows[:, 1]).any():
        raise PredictionsInvalid(str(path), f"{where}: a window of qid {qid} does not end after it begins")
    return qid, windows
