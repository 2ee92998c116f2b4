"""Given answers held against given truth, for `kinodex eval --predictions`: JSON lines as QVHighlights writes them."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serve.errors import PredictionsInvalid
from temporal.metrics import Localisation, Localised, Rejection, by_length, localisation, rejection


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """What one set of answers is worth."""

    parts: Mapping[str, Localisation]  # "full", then the length buckets that a truth is in; over the present queries
    rejection: Rejection | None  # None: no query's event is absent


def evaluate_files(predictions: Path, truth: Path) -> Evaluation:
    """Measure predictions.

    A query that nothing was predicted for counts as answered wrongly. One whose truth is empty asks for what is not
    there: to predict nothing is right.

    Args:
        predictions: JSON lines of `qid` and `pred_relevant_windows`: [start, end, …] in seconds, the best first.
        truth: JSON lines of `qid` and `relevant_windows`: [start, end] in seconds.

    Raises:
        PredictionsInvalid: If a file cannot be read or is not of this format, names a query twice, or if a prediction
            answers a query without a truth.
    """
    predicted, true = _windows(predictions, "pred_relevant_windows"), _windows(truth, "relevant_windows")
    unknown = next((qid for qid in predicted if qid not in true), None)
    if unknown is not None:
        raise PredictionsInvalid(str(predictions), f"qid {unknown} is not in {truth}: are they of the same queries?")
    nothing = np.empty((0, 2))
    present = [
        Localised(predicted=predicted.get(qid, nothing), truth=windows) for qid, windows in true.items() if len(windows)
    ]
    if not present:
        raise PredictionsInvalid(str(truth), "no query has a relevant window")
    absent = [not len(windows) for windows in true.values()]
    rejected = [not len(predicted.get(qid, nothing)) for qid in true]
    return Evaluation(
        parts={"full": localisation(present)} | dict(reversed(by_length(present).items())),
        rejection=rejection(absent, rejected) if any(absent) else None,
    )


def figures(evaluation: Evaluation) -> dict[str, float]:
    """Return the figures under QVHighlights' names in per cent to two decimals; mIoU and n are ours."""
    found: dict[str, float] = {}
    for name, part in evaluation.parts.items():
        values = {
            "R1@0.5": part.recall[0.5],
            "R1@0.7": part.recall[0.7],
            "mAP": part.mean_average_precision,
            "mAP@0.5": part.average_precision[0.5],
            "mAP@0.75": part.average_precision[0.75],
            "mIoU": part.mean_iou,
        }
        found |= {f"MR-{name}-{key}": round(100 * value, 2) for key, value in values.items()}
        found[f"MR-{name}-n"] = part.query_count
    if evaluation.rejection is not None:
        each = evaluation.rejection
        found |= {
            "absent-precision": round(100 * each.precision, 2),
            "absent-recall": round(100 * each.recall, 2),
            "absent-F1": round(100 * each.f1, 2),
            "absent-n": each.absent_count,
        }
    return found


def _windows(path: Path, field: str) -> dict[str, NDArray[np.float64]]:
    """Read the windows of each query: (N, 2) in seconds."""
    found: dict[str, NDArray[np.float64]] = {}
    try:
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                if not line.strip():
                    continue
                qid, windows = _line(line, field, f"line {number}", path)
                if qid in found:
                    raise PredictionsInvalid(str(path), f"line {number}: qid {qid} is there twice")
                found[qid] = windows
    except OSError as error:
        raise PredictionsInvalid(str(path), error.strerror or str(error)) from error
    except UnicodeDecodeError as error:
        raise PredictionsInvalid(str(path), "not UTF-8 text") from error
    if not found:
        raise PredictionsInvalid(str(path), "it is empty")
    return found


def _line(line: str, field: str, where: str, path: Path) -> tuple[str, NDArray[np.float64]]:
    try:
        row: Any = json.loads(line)
        windows = np.array([[float(window[0]), float(window[1])] for window in row[field]], np.float64).reshape(-1, 2)
        qid = str(row["qid"])
    except (ValueError, KeyError, TypeError, IndexError, RecursionError) as error:
        wanted = f'{{"qid": …, "{field}": [[start, end], …]}}'
        raise PredictionsInvalid(str(path), f"{where} is not {wanted}") from error
    if not np.isfinite(windows).all() or (windows[:, 0] > windows[:, 1]).any():
        raise PredictionsInvalid(str(path), f"{where}: a window of qid {qid} does not end after it begins")
    return qid, windows
