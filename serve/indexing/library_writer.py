"""LibraryWriter: which video of the library each input of a run becomes, and the last rows of each video."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from encoders.speech.whisper import Transcriber
from encoders.values import TextLine, Utterance
from serve.catalog.catalog import Catalog
from serve.catalog.entries import Entries, video_at
from serve.catalog.places import Entry, place_of
from serve.catalog.speech.imports import import_of, set_import
from serve.catalog.speech.subtitles import UsedSubtitles, set_subtitles, subtitles_of
from serve.catalog.text_lines import add_text_lines
from serve.encoder_set import Encoders
from serve.indexing.work import VideoWork, join_embeddings
from serve.search.traits import CaptionBank, compute_file_traits
from serve.settings import Settings
from serve.values import IndexOutcome
from temporal.window import cut_video

SAME_LENGTH_SECONDS = 1.0  # by which the length of a new version may differ for an imported transcript to stay


class LibraryWriter:
    """Writes the videos of one run. The caller holds the run's lock in all calls besides finish_unchanged()."""

    def __init__(
        self,
        catalog: Catalog,
        encoders: Encoders,
        transcriber: Transcriber | None,
        settings: Settings,
        captions: CaptionBank | None,
    ) -> None:
        self._catalog, self._encoders, self._transcriber = catalog, encoders, transcriber
        self._settings, self._captions = settings, captions
        self._entries = Entries(catalog, encoders.space.fingerprint)

    def find(self, work: VideoWork) -> int | None:
        """Return the row of the video that has an input's bytes already; None: they are new."""
        given, fingerprint = work.input, self._encoders.space.fingerprint
        if given.video_id is not None:
            row = self._catalog.find_indexed(given.collection, given.video_id, work.content_sha256, fingerprint)
        else:
            work.has_entry = self._entries.has_entry(given.collection, work.uri)
            row = self._entries.find(given.collection, work.uri, work.content_sha256)
        work.imported = given.imported
        if row is not None and self._has_other_subtitles(row, work):
            work.renews, work.imported = row, import_of(self._catalog, row)
            return None
        return row

    def find_import(self, work: VideoWork) -> None:
        """Find the imported transcript of the older version of a video whose bytes have changed.

        It stays if both versions are equally long, as after a new encoding. Else its times would be wrong.
        """
        summary = work.facts.summary
        if work.imported is not None or work.renews is not None or summary is None:
            return
        given = work.input
        if given.video_id is None:
            older = video_at(self._catalog, given.collection, work.uri)
        else:
            older = next(iter(self._catalog.videos(collection=given.collection, video_ids=[given.video_id])), None)
        imported = import_of(self._catalog, older.row) if older is not None and not older.is_live else None
        if older is None or imported is None:
            return
        if abs(older.duration_seconds - summary.duration_seconds) <= SAME_LENGTH_SECONDS:
            work.imported = imported
        else:
            work.facts.lost_import = imported.name

    def _has_other_subtitles(self, row: int, work: VideoWork) -> bool:
        """Whether the subtitle files beside a video are others than when it was indexed.

        Those beside another place with the same bytes do not count: the video belongs to the place it is listed under.
        """
        video = self._catalog.video_in(row)
        if video is None or place_of(video.uri) != place_of(work.uri):
            return False
        return subtitles_of(self._catalog, row).beside != work.beside

    def finish(
        self,
        work: VideoWork,
        utterances: Sequence[Utterance],
        sentences: NDArray[np.float32],
        lines: Sequence[TextLine],
        written: NDArray[np.float32],
    ) -> IndexOutcome | None:
        """Write the rest of a video's rows and make it visible; return None if its job was cancelled.

        Args:
            utterances: In order of time.
            sentences: Their vectors, float32 (U, D).
            lines: Of text in the pictures, in order of time.
            written: Their vectors, float32 (L, D).
        """
        media, summary = work.facts.media, work.facts.summary
        assert media is not None
        assert summary is not None
        entry, collection = None, work.input.collection
        if work.input.video_id is None:
            if work.has_entry and not self._entries.has_entry(collection, work.uri):
                self._catalog.abandon(work.row)
                return _deleted_outcome(work)
            entry = self._entry_of(work)
            work.video_id = entry.video_id
        embeddings = join_embeddings(work.frames)
        cut = cut_video(
            work.video_id, embeddings, utterances, sentences,
            duration_seconds=summary.duration_seconds, config=self._settings.window, pooling=self._encoders.pooling,
            epoch_starts=work.facts.epoch_starts,
        )  # fmt: skip
        segments = [one.segment for one in cut]
        self._catalog.add_utterances(work.row, utterances, sentences)
        add_text_lines(self._catalog, work.row, lines, written)
        self._catalog.add_segments(work.row, segments)
        name = work.subtitles.found.track.name if work.subtitles is not None else ""
        if work.imported is not None:
            name = work.imported.name
            set_import(self._catalog, work.row, work.imported)
        set_subtitles(self._catalog, work.row, UsedSubtitles(beside=work.beside, name=name))
        self._catalog.add_traits(work.row, compute_file_traits(embeddings, self._captions))
        duration, warnings = summary.duration_seconds, work.facts.warnings(self._transcriber)
        if not self._catalog.finish(
            work.row, media=media, duration_seconds=duration, warnings=warnings, job_id=work.input.job_id, entry=entry
        ):
            return None if entry is None else _deleted_outcome(work)
        replaced_other = work.input.content_sha256 not in (None, work.content_sha256)
        return IndexOutcome(
            video_id=work.video_id,
            uri=work.uri,
            status="indexed",
            duration_seconds=duration,
            frames=len(embeddings.pts_seconds),
            segments=len(segments),
            utterances=len(utterances),
            warnings=warnings,
            is_new_version=replaced_other or (work.renews is None and entry is not None and entry.replaces is not None),
        )

    def _entry_of(self, work: VideoWork) -> Entry:
        """Return the entry of an input with new bytes, or with new subtitles."""
        video = self._catalog.video_in(work.renews) if work.renews is not None else None
        if video is not None:
            return Entry(video_id=video.video_id, replaces=video.row)
        return self._entries.choose(work.input.collection, work.uri, work.content_sha256)

    def finish_unchanged(self, work: VideoWork, row: int) -> IndexOutcome | None:
        """End an input whose bytes are in a row already; return None if its job was cancelled."""
        given = work.input
        if given.job_id is not None and not self._catalog.finish_unchanged(
            row, uri=work.uri, metadata=given.metadata, recorded_time=given.recorded_time, job_id=given.job_id
        ):
            return None
        return self._unchanged_outcome(work, row)

    def finish_duplicate(self, work: VideoWork, row: int) -> IndexOutcome:
        """End an input whose bytes another input of the run has brought to a row."""
        self._entries.add_place(row, work.input.collection, work.uri)
        return self._unchanged_outcome(work, row)

    def settle(self) -> None:
        """Let places change hands, at the end of a run whose inputs are all read; see serve.catalog.entries."""
        self._entries.settle()

    def _unchanged_outcome(self, work: VideoWork, row: int) -> IndexOutcome:
        unchanged = IndexOutcome(video_id=work.video_id, uri=work.uri, status="unchanged")
        video = self._catalog.video_in(row)
        if video is None:  # deleted since
            return unchanged
        return replace(
            unchanged,
            video_id=video.video_id,
            duration_seconds=video.duration_seconds,
            frames=video.frame_count,
            segments=video.segment_count,
            utterances=video.utterance_count,
            warnings=video.warnings,
        )


def _deleted_outcome(work: VideoWork) -> IndexOutcome:
    """Describe the new version of a video that was deleted meanwhile: the later request wins."""
    message = f"the video was deleted while its new version was indexed: {work.name} (index it again to have it)"
    return IndexOutcome(video_id=None, uri=work.uri, status="failed", error=message)
