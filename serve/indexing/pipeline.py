"""Indexes, reindexes and deletes videos of a data directory: builds encoders and catalog, and runs an IndexRun."""

import contextlib
import hashlib
import shutil
from collections.abc import Generator, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from ingest.config import KafkaConfig
from ingest.errors import IngestError
from ingest.source.folders import list_sources
from ingest.source.redaction import is_redacted
from serve.catalog.catalog import Catalog, Kind
from serve.catalog.entries import Entries
from serve.catalog.outdated import COPY_NAME, FRESH_NAME, rebuild_outdated, remove_copy
from serve.catalog.places import is_there, is_upload, place_of, places_of
from serve.catalog.speech.imports import import_of
from serve.catalog.swap import note_failures, replace_videos
from serve.encoder_set import Encoders, load_for_indexing
from serve.errors import DataDirectoryOutdated, EncoderSpaceMismatch, VideoIsLive
from serve.index.faiss_index import VectorIndex
from serve.indexing.jobs import JobQueue
from serve.indexing.run import IndexRun
from serve.indexing.work import Input, Result
from serve.search.traits import caption_bank_of
from serve.settings import Settings
from serve.text import plural
from serve.values import IndexOutcome, IndexProgress, Video

LOST_UPLOAD = "the bytes of an upload are not kept (upload it again)"
LOST_SECRETS = "the secrets of its URL are not kept (index the whole URL again)"
INDEXED: tuple[Kind, ...] = ("segments", "utterances", "text_lines")  # the kinds of row that have vectors


def index(
    inputs: Sequence[str], directory: Path, settings: Settings, *, collection: str = "default", progress: IndexProgress
) -> Iterator[IndexOutcome]:
    """Index files, folders and URLs into a data directory; yield one outcome an input, as they finish.

    An input that fails does not affect the others. An input whose bytes are in the library already is "unchanged".
    Closing the iterator early, or killing the process, keeps every finished video and nothing of the others.

    Raises:
        DataDirectoryBusy: If another process is indexing there.
        EncoderSpaceMismatch: If the library was made with other encoders.
        EncoderError: If an encoder's weights cannot be had.
    """
    settings = _with_own_files(settings)
    found = list_sources(inputs)
    progress.expect(len(found.entries))
    if found.left_out:
        progress.leave_out(found.left_out)
    uris = [entry for entry in found.entries if isinstance(entry, str)]
    for entry in found.entries:
        if isinstance(entry, IngestError):
            yield IndexOutcome(video_id=None, uri=entry.uri, status="failed", error=str(entry))
    if not uris:
        return
    with Catalog.open_writer(directory) as catalog:
        transcriber, encoders = load_for_indexing(settings, catalog.space())
        progress.note(encoders.note)
        claim_space(catalog, directory, encoders)
        captions = caption_bank_of(directory, encoders.visual)
        run = IndexRun(catalog, encoders, transcriber, directory, settings, progress, captions=captions)
        yield from outcomes_of(run.index([Input(uri=uri, collection=collection) for uri in uris]))
        save_indexes(catalog, directory, encoders.space.fingerprint, settings)


def _with_own_files(settings: Settings) -> Settings:
    """Allow `file:` URIs below the working folder unless the settings name roots: the caller of this process names the
    inputs, and could give their paths as well. A server's callers cannot: see SourceConfig.file_roots."""
    if settings.source.file_roots:
        return settings
    return replace(settings, source=replace(settings.source, file_roots=(".",)))


def outcomes_of(results: Generator[Result]) -> Iterator[IndexOutcome]:
    """Yield the outcomes of inputs that belong to no job: none of them is cancelled, so each has one."""
    with contextlib.closing(results):
        for result in results:
            assert result.outcome is not None
            yield result.outcome


def claim_space(catalog: Catalog, directory: Path, encoders: Encoders) -> None:
    """Make sure that the library's rows and these encoders belong together; an empty library takes any."""
    stored = catalog.space()
    if stored is None or not catalog.videos():
        catalog.set_space(encoders.space)
    elif stored.fingerprint != encoders.space.fingerprint:
        raise EncoderSpaceMismatch(str(directory), str(stored), str(encoders.space))


def save_indexes(catalog: Catalog, directory: Path, fingerprint: str, settings: Settings) -> None:
    """Bring the index files up to the catalog, so that the next question need not wait for that.

    Milvus has no such files: the next question brings its collections up, once for all processes.
    """
    if settings.index.milvus_uri:
        return
    for kind in INDEXED:
        vectors = VectorIndex(directory, kind, fingerprint)
        vectors.refresh(catalog)
        vectors.save()


def reindex(directory: Path, settings: Settings, *, progress: IndexProgress) -> Iterator[IndexOutcome]:
    """Encode every video again, with the encoders that the settings name now.

    The new rows are written to a second catalog. The old one answers until the new one is complete and replaces it.
    After a kill the next call goes on. A file with other bytes than before becomes the new version of its video.

    A video that cannot be read again keeps its old rows, which answer if the encoders are the same. If none can be
    read, the library keeps its encoders, too. Live videos are not encoded again: see serve.catalog.swap.

    Raises:
        DataDirectoryMissing: If nothing was indexed there.
        DataDirectoryBusy: If another process is indexing there.
        EncoderError: If an encoder's weights cannot be had.
    """
    settings, fresh_directory = _with_own_files(settings), directory / FRESH_NAME
    try:
        Catalog.open_reader(directory).close()
    except DataDirectoryOutdated as error:
        rebuild_outdated(directory)
        progress.note(
            f"the catalog was of version {error.version}: its videos are encoded again, live videos come again from "
            f"Kafka, and {COPY_NAME} is the catalog as it was, until all is done"
        )
    with Catalog.open_writer(directory) as catalog:
        transcriber, encoders = load_for_indexing(settings, None)
        progress.note(encoders.note)
        Entries(catalog, encoders.space.fingerprint).remove_all_leftovers()
        videos = [video for video in catalog.videos() if not video.is_live]
        if live_count := len(catalog.videos()) - len(videos):
            progress.note(
                f"{plural(live_count, 'live video')} cannot be read again: they stay if the encoders are the same,"
                " else they come again from Kafka once its workers have the new ones"
            )
        progress.expect(len(videos))
        failures: dict[tuple[str, str], str] = {}
        with Catalog.open_writer(fresh_directory) as fresh:
            _forget_others(fresh, encoders.space.fingerprint, videos)
            fresh.set_space(encoders.space)
            captions = caption_bank_of(directory, encoders.visual)
            run = IndexRun(fresh, encoders, transcriber, fresh_directory, settings, progress, captions=captions)
            inputs = []
            for video in videos:
                given = _input_of_video(catalog, video)
                if is_upload(given.uri) or (place_of(given.uri) is None and is_redacted(given.uri)):
                    reason = LOST_UPLOAD if is_upload(given.uri) else LOST_SECRETS
                    failures[video.collection, video.video_id] = reason
                    yield IndexOutcome(video_id=video.video_id, uri=video.uri, status="failed", error=reason)
                else:
                    inputs.append(given)
            with contextlib.closing(run.index(inputs)) as results:
                for result in results:
                    assert result.outcome is not None  # inputs without a job are not cancelled
                    if result.outcome.status == "failed":
                        assert result.input.video_id is not None
                        failures[result.input.collection, result.input.video_id] = result.outcome.error or ""
                    yield result.outcome
        has_moved = not videos or len(failures) < len(videos)
        if has_moved:
            replace_videos(catalog, fresh_directory, failures)
        else:
            note_failures(catalog, failures)
        shutil.rmtree(fresh_directory)
        if failures:
            progress.note(_describe_failures(len(failures), len(videos)))
        if has_moved:
            save_indexes(catalog, directory, encoders.space.fingerprint, settings)
        if not failures:
            remove_copy(directory)


def _forget_others(fresh: Catalog, fingerprint: str, videos: Sequence[Video]) -> None:
    """Delete what a killed reindexing left that is of other encoders, or of videos that were deleted since."""
    stored, alive = fresh.space(), {(video.collection, video.video_id) for video in videos}
    for video in fresh.videos():
        is_of_others = stored is None or stored.fingerprint != fingerprint
        if is_of_others or (video.collection, video.video_id) not in alive:
            fresh.delete(video.video_id, video.collection)


def _describe_failures(count: int, of_all: int) -> str:
    remedy = "put their files back and index them (kinodex index PATH), or delete them"
    if count == of_all:
        return f"no video could be read again, so the library stays as it was: {remedy}"
    return (
        f"{count} of {of_all} videos could not be read again: they stay listed, and no question finds them if the"
        f" encoders are others than before. To mend that, {remedy}"
    )


def _input_of_video(catalog: Catalog, video: Video) -> Input:
    """Return the input that indexes a video again, under its id and with its metadata.

    It is read from where it is listed, or else from another place that was seen to have its bytes.
    """
    uri, listed = video.uri, place_of(video.uri)
    with catalog.writing() as read:
        others = [place for place in places_of(read, video.row) if place != listed and is_there(place)]
    if others and (listed is None or not is_there(listed) or not _has_bytes(listed, video)):
        uri = next((place for place in others if _has_bytes(place, video)), uri)
    return Input(
        uri=uri,
        stored_uri=video.uri if listed is None else None,
        collection=video.collection,
        video_id=video.video_id,
        content_sha256=video.content_sha256,
        may_change=listed is not None,
        metadata=video.metadata,
        recorded_time=video.recorded_time,
        imported=import_of(catalog, video.row),
    )


def _has_bytes(place: str, video: Video) -> bool:
    """Whether the file at a place has the bytes that a video was indexed from. URLs are not asked: no."""
    try:
        with open(place, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == video.content_sha256
    except OSError:
        return False


def delete(
    directory: Path,
    video_ids: Sequence[str],
    *,
    collection: str | None = None,
    kafka: KafkaConfig | None = None,
    is_local: bool = False,
) -> list[Video]:
    """Delete videos, also while another process indexes; return what they were.

    Args:
        kafka: Where the deletion of a live video is published, for all servers.
        is_local: Delete live videos from this library alone, which then refuses them when Kafka sends them again.
    Raises:
        VideoNotFound: If a video is not there; then none is deleted.
        VideoIsLive: If a video is live, and no Kafka is named; then none is deleted.
        BrokerUnavailable: If Kafka does not take the deletion of a live video; the videos before it are deleted.
    """
    with Catalog.open_editor(directory) as catalog:
        found = [catalog.video(video_id, collection) for video_id in video_ids]
        live = [] if is_local else [video for video in found if video.is_live]
        if live and (kafka is None or not kafka.servers):
            raise VideoIsLive(live[0].video_id)
        if live and kafka is not None:
            _delete_everywhere(catalog, kafka, live)
        jobs = JobQueue(catalog)
        for video in found:
            if video in live:
                jobs.cancel(video.collection, video.video_id)
            else:
                jobs.delete(video.video_id, video.collection)
    return found


def _delete_everywhere(catalog: Catalog, kafka: KafkaConfig, videos: Sequence[Video]) -> None:
    from serve.live.live_rows import LiveRows
    from serve.live.sender import RecordSender  # imports kafka

    with contextlib.closing(RecordSender(kafka)) as sender:
        for video in videos:
            space = catalog.space()
            rows = LiveRows(catalog, space.fingerprint if space is not None else "")
            segments = sender.delete(rows, video.collection, video.video_id, kafka.bootstrap_timeout_seconds)
            for segment in segments:
                sender.send_segment(segment, None)  # at once: every earlier record of its key is of the deleted video
