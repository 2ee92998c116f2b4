"""MilvusConnection: the Milvus client of serve.index.milvus_index, whose errors become IndexUnavailable."""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc

from ingest.source.redaction import redact_uri
from serve.config import IndexConfig
from serve.errors import IndexUnavailable, SettingsError

logger = logging.getLogger(__name__)

LOST_CODES = (100, 101)  # Milvus's error codes: the collection does not exist, or is not loaded


class MilvusConnection:
    """Connects with the first call. Logs once when Milvus stops answering, and once when it answers again."""

    def __init__(self, config: IndexConfig, on_lost: Callable[[], object]) -> None:
        """Import Milvus's client. A call that finds its collection missing, or not loaded, calls `on_lost`.

        Raises:
            SettingsError: If Milvus's client is not installed.
        """
        self._config, self._on_lost = config, on_lost
        self._pymilvus = _import_pymilvus(config)
        self._lock = threading.Lock()
        self._client: Any = None  # None: not connected
        self._is_answering = True

    @property
    def timeout_seconds(self) -> float:
        return self._config.milvus_timeout_seconds

    @contextmanager
    def client(self) -> Iterator[Any]:
        """Yield the connected pymilvus.MilvusClient.

        Raises:
            IndexUnavailable: In place of errors of the client.
        """
        config, milvus = self._config, self._pymilvus
        try:
            with self._lock:
                if self._client is None:
                    self._client = milvus.MilvusClient(
                        config.milvus_uri, token=config.milvus_token, timeout=self.timeout_seconds
                    )
                client = self._client
            yield client
        except (milvus.MilvusException, grpc.RpcError) as error:
            if getattr(error, "code", None) in LOST_CODES:
                self._on_lost()
            elif self._is_answering:
                logger.warning("milvus does not answer uri=%s reason=%s", redact_uri(config.milvus_uri), error)
                self._is_answering = False
            raise IndexUnavailable() from error
        if not self._is_answering:
            logger.info("milvus answers again uri=%s", redact_uri(config.milvus_uri))
        self._is_answering = True

    def close(self) -> None:
        with self._lock:
            if self._client is not None:
                self._client.close()
            self._client = None


def _import_pymilvus(config: IndexConfig) -> Any:
    """Import Milvus's client, and milvus-lite if the URI is that of a file.

    Raises:
        SettingsError: If either is not installed, or the file's folder is missing.
    """
    is_file = config.milvus_uri.endswith(".db")
    if is_file and not Path(config.milvus_uri).parent.is_dir():
        raise SettingsError(f"index.milvus_uri: there is no folder for {config.milvus_uri}")
    try:
        import pymilvus

        if is_file:
            import milvus_lite  # noqa: F401
    except ImportError as error:
        raise SettingsError(
            f"index.milvus_uri needs the package {error.name}: pip install 'kinodex[milvus]'"
        ) from error
    # These libraries log each error with its traceback, and also raise it.
    for library in ("pymilvus", "pymilvus.milvus_client", "milvus_lite"):
        logging.getLogger(library).setLevel(logging.CRITICAL)
    return pymilvus
