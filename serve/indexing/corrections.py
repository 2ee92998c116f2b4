"""Imports a transcript: the words of a video as somebody corrected them, in the place of all others."""

import os
from dataclasses import replace
from pathlib import Path

from ingest.config import DecodeConfig
from ingest.errors import SourceUnreadable
from ingest.sandbox.pool import DecodePool
from ingest.source.sidecars import SUFFIXES
from ingest.source.source import display_uri, open_path
from ingest.values import SubtitleTrack
from serve.catalog.catalog import Catalog, NewVideo
from serve.catalog.places import Entry
from serve.catalog.speech.imports import ImportedTranscript, set_import
from serve.catalog.speech.subtitles import set_subtitles, subtitles_of
from serve.encoder_set import Encoders, load_encoders
from serve.errors import EncoderSpaceMismatch, TranscriptNotImported, VideoNotFound
from serve.indexing.pipeline import save_indexes
from serve.indexing.subtitles import is_misfit, to_import
from serve.settings import Settings
from serve.values import Video
from temporal.window import cut_video

COPIED_TABLES = ("frame_blocks", "thumbnails", "text_lines", "video_traits")  # of a video whose words alone change


def import_transcript(
    directory: Path, settings: Settings, video_id: str, file: Path, *, collection: str | None = None
) -> tuple[Video, SubtitleTrack]:
    """Replace the words of a video by those of a subtitle file; return the video as it is then, and what was read.

    The words stay when the video is indexed again. Pictures are not decoded again. The speech model is not loaded.

    Raises:
        SourceError: If the file cannot be read, or is no subtitle file.
        TranscriptNotImported: If the video is live, or the file is another video's.
        VideoNotFound: If there is no such video.
        DataDirectoryBusy: If another process is indexing there.
        EncoderSpaceMismatch: If the settings name other encoders than the library has, or the video has others.
    """
    track = read_corrected(file)
    with Catalog.open_writer(directory) as catalog:
        video = catalog.video(video_id, collection)
        if video.is_live:
            raise TranscriptNotImported(video.video_id, "it is live, and its words come from its stream")
        if is_misfit(track, video.duration_seconds):
            raise TranscriptNotImported(
                video.video_id, f"most lines of {track.name} begin behind its end, so they are another video's"
            )
        encoders = _load_encoders(catalog, directory, settings, video)
        imported = ImportedTranscript(name=track.name, lines=track.subtitles)
        row = _write(catalog, encoders, settings, video, imported)
        save_indexes(catalog, directory, encoders.space.fingerprint, settings)
        found = catalog.video_in(row)
    if found is None:
        raise VideoNotFound(video_id)
    return found, track


def read_corrected(file: Path) -> SubtitleTrack:
    """Read a subtitle file in a child process, as its text is untrusted.

    Raises:
        SourceError: If it cannot be read, or has no subtitles.
    """
    name = display_uri(str(file))
    suffix = file.suffix.lower()
    if suffix not in SUFFIXES:
        raise SourceUnreadable(
            name, "not a subtitle file by its name", f"name a file such as film{', film'.join(SUFFIXES)}"
        )
    descriptor = open_path(os.fspath(file), name)
    with open(descriptor, "rb", buffering=0) as opened, DecodePool(DecodeConfig(), workers=1) as pool:
        track = pool.read_subtitles(opened, suffix=suffix[1:], name=file.name, language=None, kind="full")
    if track.problem:
        raise SourceUnreadable(name, track.problem, "convert it to SubRip in UTF-8")
    return replace(track, name=display_uri(file.name))


def _load_encoders(catalog: Catalog, directory: Path, settings: Settings, video: Video) -> Encoders:
    """Load the encoders of the library, without its speech model."""
    stored = catalog.space()
    assert stored is not None  # the library has a video
    encoders = load_encoders(settings, stored, speech=(stored.speech, stored.speech_fingerprint))
    if stored.fingerprint != encoders.space.fingerprint or not video.is_searchable:
        raise EncoderSpaceMismatch(str(directory), str(stored), str(encoders.space))
    encoders.pooling.load(encoders.visual.width if encoders.visual is not None else 0, encoders.sentence.width)
    return encoders


def _write(catalog: Catalog, encoders: Encoders, settings: Settings, video: Video, imported: ImportedTranscript) -> int:
    """Write the rows of a video with other words, and let them take the place of its old rows; return the new row."""
    utterances = to_import(imported, video.duration_seconds, settings.speech.languages)
    sentences = encoders.sentence.encode([one.text for one in utterances])
    starts: dict[int, float] = {}
    for segment in catalog.segments(video.row):
        starts[segment.epoch] = min(segment.span.start_seconds, starts.get(segment.epoch, segment.span.start_seconds))
    row = catalog.begin(
        NewVideo(
            video_id=video.video_id, collection=video.collection, uri=video.uri, content_sha256=video.content_sha256,
            fingerprint=encoders.space.fingerprint, metadata=video.metadata, recorded_time=video.recorded_time,
        )
    )  # fmt: skip
    catalog.copy_rows(COPIED_TABLES, video.row, row)
    cut = cut_video(
        video.video_id, catalog.frames(video.row), utterances, sentences, duration_seconds=video.duration_seconds,
        config=settings.window, pooling=encoders.pooling, epoch_starts=starts,
    )  # fmt: skip
    catalog.add_utterances(row, utterances, sentences)
    catalog.add_segments(row, [one.segment for one in cut])
    set_subtitles(catalog, row, replace(subtitles_of(catalog, video.row), name=imported.name))
    set_import(catalog, row, imported)
    is_there = catalog.finish(
        row, media=video.media, duration_seconds=video.duration_seconds, warnings=video.warnings,
        entry=Entry(video_id=video.video_id, replaces=video.row),
    )  # fmt: skip
    if not is_there:
        raise VideoNotFound(video.video_id)
    return row
