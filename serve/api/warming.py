"""prepare_catalog() and warm_library() make a data directory ready for a server: catalog, encoders and indexes."""

from pathlib import Path

from serve import encoder_set
from serve.catalog.catalog import Catalog
from serve.catalog.sqlite import SERVER_LOCK_NAME, WriterLock, translate_failures
from serve.errors import ServeError
from serve.files import make_library_private, make_private_folder
from serve.search.library import Library
from serve.settings import Settings


def lock_for_serving(directory: Path) -> WriterLock:
    """Make the data directory if it is missing, and take the lock of its one server.

    Raises:
        DataDirectoryBusy: If another server has it; the error names its process.
        DataDirectoryInvalid: If the folder cannot be made, or may not be written.
    """
    with translate_failures(directory):
        make_private_folder(directory)
        return WriterLock(directory, SERVER_LOCK_NAME)


def prepare_catalog(directory: Path) -> None:
    """Make the data directory's catalog, or migrate an older one.

    Raises:
        DataDirectoryInvalid: If the catalog cannot be used.
    """
    try:
        Catalog.open_editor(directory).close()
        make_library_private(directory)
    except ServeError:
        Catalog.open_writer(directory).close()


def warm_library(directory: Path, settings: Settings) -> Library:
    """Open a library with its encoders and indexes in memory; an empty library gets the encoders of the settings.

    Raises:
        DataDirectoryBusy: If the library is empty, and another process begins to index.
        EncoderSpaceMismatch: If other encoders than those of the settings made the rows.
        EncoderError: If an encoder's weights are missing.
    """
    library = Library.open(directory, settings)
    try:
        if library.catalog.space() is None or not library.catalog.videos():
            from serve.indexing import pipeline  # imports torch and Whisper: half a GB that answers do not need

            with Catalog.open_writer(directory) as writer:
                _, encoders = encoder_set.load_for_indexing(settings, writer.space())
                pipeline.claim_space(writer, directory, encoders)
            library.encoders = encoders
        engine = library.engine
        engine.refresh()
        engine.sentences.encode(["warm"])
        if engine.visual is not None:
            engine.visual.encode_text("warm")
    except BaseException:
        library.close()
        raise
    return library
