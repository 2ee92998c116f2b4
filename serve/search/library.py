"""The embedded library: one data directory, opened for reading, that answers questions in this process."""

import tempfile
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from encoders.errors import NoVisualEncoder
from encoders.values import Utterance
from ingest.errors import DecodeError
from ingest.media.sandbox import DecodePool
from ingest.values import Frame
from serve.catalog.catalog import Catalog
from serve.encoder_set import Encoders, decode_config, load_encoders
from serve.errors import CollectionNotFound, DataDirectoryMissing, EncoderSpaceMismatch
from serve.search.engine import Engine
from serve.search.intent import read_intent
from serve.settings import Settings, load_settings
from serve.values import Answer, Query, Video

PICTURE_SECONDS = 30.0  # to decode the picture of a question: milliseconds, on a machine that is not overrun
PICTURE_PIXELS = 100_000_000  # of such a picture: above any camera's, and below what a bomb unpacks to
PICTURE_WORKERS = 2  # such pictures decoded at once


class Library:
    """What was indexed into a data directory. Encoders are loaded with the first question, not before."""

    def __init__(self, directory: Path, settings: Settings, catalog: Catalog) -> None:
        self.directory, self.settings, self.catalog = directory, settings, catalog

    @classmethod
    def open(cls, directory: Path | str, settings: Settings | None = None) -> Self:
        """Open a data directory for reading, also while another process indexes into it.

        Args:
            directory: The folder that `kinodex index` wrote.
            settings: None: those of its kinodex.toml and of the environment.
        Raises:
            DataDirectoryMissing: If nothing was indexed there.
            DataDirectoryInvalid: If its catalog is damaged or newer than this program.
        """
        directory = Path(directory)
        return cls(directory, settings or load_settings(directory), Catalog.open_reader(directory))

    def close(self) -> None:
        """Let go of the catalog and of the child processes."""
        if "pictures" in vars(self):
            self.pictures.close()
        if "engine" in vars(self):
            self.engine.close()
        self.catalog.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @cached_property
    def encoders(self) -> Encoders:
        """The encoders the rows were made with.

        Raises:
            EncoderSpaceMismatch: If the settings name others.
        """
        stored = self.catalog.space()
        if stored is None:
            raise DataDirectoryMissing(str(self.directory))
        encoders = load_encoders(self.settings, stored, speech=(stored.speech, stored.speech_fingerprint))
        if stored.fingerprint != encoders.space.fingerprint:
            raise EncoderSpaceMismatch(str(self.directory), str(stored), str(encoders.space))
        return encoders

    @cached_property
    def engine(self) -> Engine:
        """The query engine over this directory."""
        return Engine(self.catalog, self.encoders, self.directory, self.settings)

    def search(self, query: Query) -> Answer:
        """Return the videos that answer, best first.

        Raises:
            CollectionNotFound: If a collection that is asked about is not there.
            IngestError: If its picture cannot be decoded.
            NoVisualEncoder: If a picture is asked about, and nothing here can see.
        """
        self.check_collections(query)
        return self.engine.search(query, self.pixels(query))

    def moments(self, query: Query) -> Answer:
        """Return the moments that answer, best first; raises as search()."""
        self.check_collections(query)
        return self.engine.moments(query, self.pixels(query))

    def similarities(self, text: str, video: Video) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
        """Return how near each frame of a video is to a text: times in seconds (F,), de-biased similarities (F,).

        Raises:
            NoVisualEncoder: If nothing here can see.
        """
        visual = self.engine.visual
        if visual is None:
            raise NoVisualEncoder(f"{self.directory} was indexed without a visual encoder")
        with self.engine.snapshot():
            curve = visual.score_frames(visual.encode_text(read_intent(text).text), video, None)
        if curve is None:
            return np.empty(0), np.empty(0, np.float32)
        return curve.frames.pts_seconds, curve.values

    def check_collections(self, query: Query) -> None:
        """Make sure that what is asked about is there: an empty answer would hide a typing slip."""
        for collection in query.filter.collections or ():
            if not self.catalog.has_collection(collection):
                raise CollectionNotFound(collection)

    def pixels(self, query: Query) -> NDArray[np.uint8] | None:
        """Decode a query's picture, in a child process, to the visual encoder's input: uint8 (H, W, 3) RGB."""
        if not query.image:
            return None
        if self.encoders.visual is None:
            raise NoVisualEncoder(
                f"an image cannot be searched for: {self.directory} was indexed without a visual encoder"
            )
        with tempfile.TemporaryFile() as file:
            file.write(query.image)
            file.flush()
            for decoded in self.pictures.decode(file, uri=query.image_name):
                if isinstance(decoded, Frame):
                    return decoded.pixels
        raise DecodeError(query.image_name, "no picture inside", "give a JPEG, PNG or WebP file")

    @cached_property
    def pictures(self) -> DecodePool:
        """The child processes that decode the pictures of questions."""
        config = replace(
            decode_config(self.settings, self.encoders),
            max_wall_seconds=PICTURE_SECONDS,
            max_pixels=min(PICTURE_PIXELS, self.settings.decode.max_pixels),
        )
        return DecodePool(config, workers=PICTURE_WORKERS)

    def videos(self, collection: str | None = None) -> list[Video]:
        """Return what is indexed, by uri."""
        return self.catalog.videos(collection=collection)

    def video(self, video_id: str) -> Video:
        """Return one video by its id or an unambiguous start of it; VideoNotFound."""
        return self.catalog.video(video_id)

    def transcript(self, video: Video) -> list[Utterance]:
        """Return what is said in a video, in order."""
        return self.catalog.utterances(video.row)

    def thumbnail(self, video: Video, at_seconds: float) -> tuple[float, bytes] | None:
        """Return the picture nearest to a time: its own time and a JPEG; None where there is none."""
        return self.catalog.thumbnail(video.row, at_seconds)
