"""One input on its way through an indexing run, and what threads tell each other about it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from encoders.speech.whisper import SpeechStream
from encoders.values import FrameEmbeddings, Utterance
from ingest.errors import IngestError
from ingest.values import Decoded, DecodeSummary, MediaInfo
from serve.values import IndexOutcome


@dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    """What to index, and as what."""

    uri: str  # what is opened: a path or URI
    collection: str
    video_id: str | None = None  # None: the start of its content's SHA-256
    stored_uri: str | None = None  # what messages and the catalog call it; None: `uri`, made absolute, without secrets
    content_sha256: str | None = None  # what its bytes must be; None: anything
    metadata: Mapping[str, str] = field(default_factory=dict)
    recorded_time: float | None = None  # seconds since 1970; None: not known
    job_id: int | None = None  # the job that ends with it; None: it is nobody's job


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What became of one input."""

    input: Input
    outcome: IndexOutcome | None  # None: its job was cancelled meanwhile
    error: IngestError | None = None  # there: it failed


@dataclass(slots=True, eq=False)
class Work:
    """One input on its way to the catalog. After it is queued, only the encoding thread changes it."""

    input: Input
    uri: str  # as stored
    name: str  # in messages
    video_id: str = ""  # empty: its bytes are not known yet, as the next
    content_sha256: str = ""
    row: int = -1
    media: MediaInfo | None = None
    summary: DecodeSummary | None = None  # there: decoding is over
    speech: SpeechStream | None = None
    decoded_share: float = 0.0  # 0..1
    reported_share: float = 0.0  # 0..1
    item_count: int = 0  # frames and speech windows
    pending_count: int = 0  # of these, wait for their batch
    frames: list[FrameEmbeddings] = field(default_factory=list)  # without pictures: about 2 KB a frame
    utterances: list[Utterance] = field(default_factory=list)
    twins: list["Work"] = field(default_factory=list)  # other inputs with the same bytes
    is_over: bool = False  # finished, failed or cancelled: what else is decoded of it is nobody's
    outcome: IndexOutcome | None = None
    error: IngestError | None = None

    @property
    def claim(self) -> tuple[str, str, int | None]:
        """What one input at a time may index. A job that replaces another, while that is being given up, may too."""
        return self.input.collection, self.video_id, self.input.job_id

    def report_share(self) -> float:
        """Return how far it is: what is decoded, less what waits to be encoded. Never less than before."""
        encoded_share = 1 - self.pending_count / self.item_count if self.item_count else 0.0
        self.reported_share = max(self.reported_share, self.decoded_share * encoded_share)
        return self.reported_share


@dataclass(frozen=True, slots=True)
class Event:
    """What a decoding thread tells the encoding thread about one input."""

    work: Work
    payload: "Opened | Decoded | IngestError | Known | Twin"


@dataclass(frozen=True, slots=True)
class Opened:
    """The input's bytes are here and decoding begins."""


@dataclass(frozen=True, slots=True)
class Known:
    """The input's bytes are in the library already."""

    row: int


@dataclass(frozen=True, slots=True)
class Twin:
    """The input has the same bytes as another one of this run."""

    other: Work


class RunStopped(Exception):
    """Ends a decoding thread when nobody waits for what it decodes any more."""


class WorkCancelled(Exception):
    """Ends the decoding of one input when nobody waits for it any more."""


def joined(parts: Sequence[FrameEmbeddings]) -> FrameEmbeddings:
    """Put batches of one video's embeddings, in order, into one value."""
    if not parts:
        return FrameEmbeddings(
            epochs=np.zeros(0, np.int32), pts_seconds=np.zeros(0), vectors=np.zeros((0, 0), np.float32)
        )
    return FrameEmbeddings(
        epochs=np.concatenate([part.epochs for part in parts]),
        pts_seconds=np.concatenate([part.pts_seconds for part in parts]),
        vectors=np.concatenate([part.vectors for part in parts]),
    )


def warnings_of(summary: DecodeSummary) -> tuple[str, ...]:
    """Say in words what was wrong with media that decoded all the same."""
    found = []
    if summary.truncated:
        found.append("it ends before its header says; what is there was indexed")
    if summary.error_count:
        found.append(f"{summary.error_count} damaged packets were skipped")
    if summary.epoch_count > 1:
        found.append(f"its timestamps break {summary.epoch_count - 1} times")
    return tuple(found)
