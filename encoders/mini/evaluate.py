"""Evaluates a `mini` on held-out pictures: how high each picture ranks its own caption."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from encoders.mini.pictures import Label
from encoders.sentence import SentenceEncoder


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """Accuracy: the rank of each picture's first caption among all first captions, and the rank of its label.

    The first caption of a label in the data stands for the label.
    """

    images: int
    captions: int
    top1: float
    top5: float
    label_top1: float
    label_top5: float


def evaluate_vectors(vectors: NDArray[np.float32], labels: Sequence[Label], sentence: SentenceEncoder) -> Evaluation:
    """Rank captions by their similarity to pictures.

    Args:
        vectors: float32 (N, D), unit length.
        labels: Labels of the same N pictures.
        sentence: The encoder whose space the vectors are in.
    """
    own = [label.captions[0] for label in labels]
    names: dict[str, str] = {}
    for label in labels:
        names.setdefault(label.label, label.captions[0])
    ranks = ranks_of(vectors, own, sentence)
    label_ranks = ranks_of(vectors, [names[label.label] for label in labels], sentence)
    return Evaluation(
        images=len(labels),
        captions=len(set(own)),
        top1=float((ranks <= 1).mean()),
        top5=float((ranks <= 5).mean()),
        label_top1=float((label_ranks <= 1).mean()),
        label_top5=float((label_ranks <= 5).mean()),
    )


def accuracy_by_kind(
    vectors: NDArray[np.float32], labels: Sequence[Label], sentence: SentenceEncoder
) -> dict[str, tuple[int, float, float]]:
    """Return count, top1 and top5 of the pictures of each kind among the captions of all kinds; largest kind first."""
    ranks = ranks_of(vectors, [label.captions[0] for label in labels], sentence)
    kinds = np.array([label.kind for label in labels])
    return {
        kind: (count, float((ranks[kinds == kind] <= 1).mean()), float((ranks[kinds == kind] <= 5).mean()))
        for kind, count in Counter(kinds.tolist()).most_common()
    }


def ranks_of(vectors: NDArray[np.float32], texts: Sequence[str], sentence: SentenceEncoder) -> NDArray[np.int64]:
    """Return the rank, from 1, of the text of each picture among all distinct texts; ties count against it."""
    distinct = list(dict.fromkeys(texts))
    columns = {text: column for column, text in enumerate(distinct)}
    similarities = vectors @ sentence.encode(distinct).T  # (N, T)
    own = similarities[np.arange(len(vectors)), [columns[text] for text in texts]]
    return np.asarray((similarities >= own[:, None]).sum(axis=1))
