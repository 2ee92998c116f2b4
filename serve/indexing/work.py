"""Values of an indexing run: its inputs and results, and what its decoding threads send to its encoding thread."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from encoders.speech.speakers import tell_apart
from encoders.speech.whisper import SpeechStream
from encoders.values import FrameEmbeddings, Utterance, WordSource
from encoders.writing.text_track import TextTrack
from ingest.errors import IngestError
from ingest.values import Decoded, SubtitleTrack
from serve.catalog.speech.imports import ImportedTranscript
from serve.indexing.subtitles import SpokenSubtitles
from serve.values import IndexOutcome
from serve.video_warnings import FileFacts


@dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    """A file or URL to index, and how the library is to store it."""

    uri: str  # opened; a path or URI
    collection: str
    video_id: str | None = None  # None: that of its bytes or of its place in the library, see serve.catalog.entries
    stored_uri: str | None = None  # in messages and the catalog; None: `uri`, made absolute, without secrets
    content_sha256: str | None = None  # of its bytes as the library knows them; None: not known
    may_change: bool = True  # other bytes than these are its new version; False: they are an error
    metadata: Mapping[str, str] = field(default_factory=dict)
    recorded_time: float | None = None  # seconds since 1970; None: not known
    job_id: int | None = None  # the job that ends with it; None: it belongs to no job
    imported: ImportedTranscript | None = None  # its words, as somebody corrected them
    may_grow: bool = True  # others may still write its file; False: an upload, which is complete


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """The end of one input: an outcome, unless its job was cancelled."""

    input: Input
    outcome: IndexOutcome | None  # None: its job was cancelled
    error: IngestError | None = None  # set if it failed


@dataclass(slots=True, eq=False)
class VideoWork:
    """State of one input between opening and its result. Once its first event is queued, only the encoding thread
    changes it."""

    input: Input
    uri: str  # as stored
    name: str  # in messages
    video_id: str = ""  # empty until its bytes are known, as the next
    content_sha256: str = ""
    row: int = -1  # in the catalog; -1: none was begun
    facts: FileFacts = field(default_factory=FileFacts)
    has_entry: bool = False  # its place had a video when its bytes were read
    speech: SpeechStream | None = None
    text: TextTrack | None = None
    beside: str = ""  # digest of the subtitle files beside it
    renews: int | None = None  # row of the video of the same bytes whose subtitle files have changed
    tracks: list[tuple[SubtitleTrack, WordSource]] = field(default_factory=list)  # until one is chosen
    subtitles: SpokenSubtitles | None = None  # that were chosen
    has_chosen: bool = False  # of `tracks`
    imported: ImportedTranscript | None = None  # in the place of all other words
    decoded_share: float = 0.0  # 0..1
    reported_share: float = 0.0  # 0..1
    item_count: int = 0  # frames and windows of speech
    pending_count: int = 0  # of `item_count`: those that wait for their batch
    frames: list[FrameEmbeddings] = field(default_factory=list)  # without pictures: about 2 KB a frame
    utterances: list[Utterance] = field(default_factory=list)
    voices: list[NDArray[np.float32]] = field(default_factory=list)  # of `utterances`, in parts; empty: not wanted
    duplicates: list["VideoWork"] = field(default_factory=list)  # other inputs with the same bytes
    is_over: bool = False  # finished, failed or cancelled: whatever else is decoded of it is dropped
    outcome: IndexOutcome | None = None
    error: IngestError | None = None

    @property
    def claim(self) -> tuple[str, str, int | None]:
        """Key of which one input at a time is decoded.

        It holds the job: a job that replaces a cancelled one may begin while the old one is being dropped.
        """
        return self.input.collection, self.input.video_id or self.content_sha256, self.input.job_id

    def heard(self) -> list[Utterance]:
        """Return the utterances of the speech model in order of time, with their speakers if these are wanted."""
        order = sorted(range(len(self.utterances)), key=lambda n: self.utterances[n].start_seconds)
        utterances = [self.utterances[n] for n in order]
        if not self.voices:
            return utterances
        lengths = [each.end_seconds - each.start_seconds for each in utterances]
        numbers = tell_apart(np.concatenate(self.voices)[order], lengths)
        return [replace(each, speaker=number) for each, number in zip(utterances, numbers, strict=True)]

    def update_reported_share(self) -> float:
        """Return how far it is, 0 to 1: the share decoded, less what waits to be encoded. It never shrinks."""
        encoded_share = 1 - self.pending_count / self.item_count if self.item_count else 0.0
        self.reported_share = max(self.reported_share, self.decoded_share * encoded_share)
        return self.reported_share


@dataclass(frozen=True, slots=True)
class DecodeEvent:
    """A message of a decoding thread to the encoding thread about one input."""

    work: VideoWork
    payload: "Opened | Beside | Decoded | Written | IngestError | AlreadyIndexed | Duplicate"


@dataclass(frozen=True, slots=True)
class Opened:
    """The input's bytes are here, and decoding begins."""


@dataclass(frozen=True, slots=True)
class Beside:
    """A subtitle file beside the input. Comes before what is decoded."""

    track: SubtitleTrack


@dataclass(frozen=True, slots=True)
class Written:
    """The input's file was written while it was decoded. Comes before its DecodeSummary."""


@dataclass(frozen=True, slots=True)
class AlreadyIndexed:
    """The library holds the input's bytes already."""

    row: int


@dataclass(frozen=True, slots=True)
class Duplicate:
    """The input has the same bytes as another input of this run, which is or was decoded."""

    other: VideoWork


class RunStopped(Exception):
    """Ends a decoding thread when the run is over."""


class WorkCancelled(Exception):
    """Ends the decoding of one input that failed or whose job was cancelled."""


def join_embeddings(parts: Sequence[FrameEmbeddings]) -> FrameEmbeddings:
    """Join batches of one video's embeddings, in order."""
    if not parts:
        return FrameEmbeddings(
            epochs=np.zeros(0, np.int32), pts_seconds=np.zeros(0), vectors=np.zeros((0, 0), np.float32)
        )
    return FrameEmbeddings(
        epochs=np.concatenate([part.epochs for part in parts]),
        pts_seconds=np.concatenate([part.pts_seconds for part in parts]),
        vectors=np.concatenate([part.vectors for part in parts]),
    )
