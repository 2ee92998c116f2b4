"""MilvusIndex: nearest vectors of a library that outgrows one machine. Milvus holds the rows.

The answers are those of serve.index.faiss_index.

A Milvus collection caches one kind of row of one catalog and one encoder space, all of which are in its name:

    kinodex1_segments_CATALOG_ENCODERS    id: int64, the key; video: int64, its row; stamp: double; vector

So a collection of another library, of other encoders or of another format is never searched. Creating the first
collection of new encoders drops those of the catalog's former encoders.

The first refresh() reads all ids in the collection and keeps only rows that the catalog confirms. A file is confirmed
by its indexed_time and its number of rows, a row of a live video by its added_time. All other rows are deleted, except
those that another process may have added for a newer state of the catalog. Missing rows are added. The vectors
themselves are not checked: a client that may write to Milvus can falsify answers.

Any number of processes may refresh one collection if they share the data directory. They need no lock between them:
keys are never reused, and the meaning of a key never changes. So adding a row twice changes nothing, and a row that is
gone for one process is gone for all. Each process answers only with rows that it knows. Rows that another process
added for a newer state of the catalog are left out of its answers and stay in the collection. Rows left behind by a
process that died are removed when the next process starts. (A copy of a data directory continues with the same keys,
so it needs a Milvus database of its own.)

Reads are strongly consistent: an answer shows all additions and deletions that were made before the question.
"""

import logging
import re
import threading
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serve.catalog.catalog import Catalog, Kind
from serve.config import IndexConfig
from serve.errors import IndexUnavailable
from serve.index.changes import HeldRows, IdsAndStamps, IndexChanges, VectorRows
from serve.index.milvus_connection import MilvusConnection
from serve.index.nearest import Nearest, NearestWithVideos, check_query, distinct_videos, merge_nearest

logger = logging.getLogger(__name__)

FORMAT = 1  # of the collections; part of their names
MAX_ANSWER_COUNT = 16_384  # rows of one answer: Milvus's own limit
FILTER_COUNT = 5_000  # videos, or ids, in one filter expression: 50 KB to parse
SCAN_COUNT = 10_000  # rows read at once by the scan of a collection
UPSERT_BYTES = 8 << 20  # vectors of one upsert: gRPC accepts 64 MiB, and a proxy shares its memory among clients
LOAD_SECONDS = 600.0  # for query nodes to load a whole collection into memory
FIELDS = {"id": "INT64", "video": "INT64", "stamp": "DOUBLE", "vector": "FLOAT_VECTOR"}


class MilvusIndex:
    """Inner product over one kind of row of one encoder space, in Milvus. Any number of threads may search."""

    def __init__(
        self,
        kind: Kind,
        fingerprint: str,
        config: IndexConfig,
        *,
        filter_count: int = FILTER_COUNT,
        upsert_bytes: int = UPSERT_BYTES,
    ) -> None:
        """Make an index that connects with its first refresh(), which also fills it.

        Raises:
            SettingsError: If Milvus's client is not installed.
        """
        self.kind, self.fingerprint = kind, fingerprint
        self._filter_count, self._upsert_bytes = filter_count, upsert_bytes
        self._connection = MilvusConnection(config, self._note_lost)
        self._is_lost = False  # the collection disappeared since the last refresh
        self._lock = threading.RLock()
        self._held = HeldRows(kind, fingerprint)
        self._catalog: Catalog | None = None  # of the last refresh
        self._name = ""  # of the collection
        self._width: int | None = None  # None: there is no collection
        self._live: dict[int, list[tuple[int, float]]] = {}  # ids and stamps that a scan read, by row of a live video
        self._pending: list[IndexChanges] = []  # known to HeldRows, not yet applied
        self._count = 0

    def __len__(self) -> int:
        """Return the number of vectors after the last change."""
        return self._count

    def refresh(self, catalog: Catalog) -> None:
        """Bring the collection to the catalog's generation.

        Raises:
            IndexUnavailable: If Milvus does not answer; the next call continues.
            DataDirectoryInvalid: If the catalog is damaged.
        """
        with self._lock, catalog.snapshot():
            if self._held.state == (catalog.identity(), catalog.generation()) and not self._pending:
                return
            self._catalog, self._is_lost = catalog, False
            try:
                self._refresh(catalog)
            except IndexUnavailable:
                if not self._is_lost:
                    raise
                self._refresh(catalog)  # the collection was dropped: create it again

    def search(self, vectors: NDArray[np.float32], k: int, *, rows: Sequence[int] | None = None) -> Nearest:
        """Return the nearest rows by inner product; see serve.index.faiss_index.VectorIndex.search().

        Raises:
            IndexUnavailable: If Milvus does not answer.
        """
        return self._search_or_recover(vectors, k, rows)[:2]

    def videos(self, vector: NDArray[np.float32], k: int, *, rows: Sequence[int] | None = None) -> list[int]:
        """Return the videos that own the nearest rows; see serve.index.faiss_index.VectorIndex.videos().

        Raises:
            IndexUnavailable: If Milvus does not answer.
        """
        return distinct_videos(self._search_or_recover(vector[None], k, rows)[2][0])

    def _search_or_recover(self, vectors: NDArray[np.float32], k: int, rows: Sequence[int] | None) -> NearestWithVideos:
        """Search; if the collection was lost, create it again and search once more."""
        check_query(vectors, k)
        if k > MAX_ANSWER_COUNT:
            raise ValueError(f"k must be <= {MAX_ANSWER_COUNT} with Milvus, got {k}")
        queries = np.ascontiguousarray(vectors, np.float32)
        try:
            return self._search(queries, k, rows)
        except IndexUnavailable:
            if not self._is_lost or self._catalog is None:
                raise
        self.refresh(self._catalog)
        return self._search(queries, k, rows)

    def close(self) -> None:
        self._connection.close()

    @property
    def _timeout(self) -> float:
        return self._connection.timeout_seconds

    def _note_lost(self) -> None:
        """Note that the collection was dropped, or unloaded, by another client."""
        logger.warning("milvus collection lost name=%s", self._name)
        self._forget()
        self._is_lost = True

    def _forget(self) -> None:
        """Make the next refresh scan the collection again."""
        with self._lock:
            self._held.state, self._pending = None, []

    def _search(self, queries: NDArray[np.float32], k: int, rows: Sequence[int] | None) -> NearestWithVideos:
        with self._lock:
            name, width = self._name, self._width
            filters = [""] if rows is None else _filters_for(set(rows), self._held.videos, self._filter_count)
        if width is None or not len(queries):
            return merge_nearest([], len(queries), k)
        if width != queries.shape[1]:
            raise ValueError(f"vectors must be {width} wide, got {queries.shape[1]}")
        with self._connection.client() as client:
            parts = [self._search_filtered(client, name, queries, k, each) for each in filters]
        return merge_nearest(parts, len(queries), k)

    def _search_filtered(
        self, client: Any, name: str, queries: NDArray[np.float32], k: int, expression: str
    ) -> NearestWithVideos:
        """Return at least the k best rows that this process holds.

        Rows of newer states of the catalog, added by other processes, can fill an answer. The search is then repeated
        with a higher limit.
        """
        limit = k
        while True:
            answers = client.search(
                name, data=list(queries), anns_field="vector", limit=limit, filter=expression,
                output_fields=["video", "stamp"], consistency_level="Strong", timeout=self._timeout,
                search_params={"metric_type": "IP"},
            )  # fmt: skip
            ids = np.full((len(queries), limit), -1, np.int64)
            scores = np.full((len(queries), limit), -np.inf, np.float32)
            videos = np.full((len(queries), limit), -1, np.int64)
            is_lacking = False
            for n, answer in enumerate(answers):
                rows = [(hit["id"], hit["entity"]["video"], hit["entity"]["stamp"]) for hit in answer]
                with self._lock:
                    is_held = self._held.are_held(rows)
                ids[n, : len(rows)] = np.where(is_held, [key for key, _, _ in rows], -1)
                scores[n, : len(rows)] = np.where(is_held, [hit["distance"] for hit in answer], -np.inf)
                videos[n, : len(rows)] = np.where(is_held, [video for _, video, _ in rows], -1)
                is_lacking |= len(rows) == limit and int(is_held.sum()) < k
            if not is_lacking or limit == MAX_ANSWER_COUNT:
                return ids, scores, videos
            limit = min(4 * limit, MAX_ANSWER_COUNT)

    def _refresh(self, catalog: Catalog) -> None:
        with self._connection.client() as client:
            changes = self._held.find_changes(catalog, self._scan, self._take_live)
            if changes is not None:
                self._pending = [changes] if changes.is_first else [*self._pending, changes]
                self._held.mark_done(changes)
            while self._pending:
                self._apply(client, catalog, self._pending[0])
                del self._pending[0]
            self._count = self._count_rows(client)

    def _apply(self, client: Any, catalog: Catalog, changes: IndexChanges) -> None:
        """Delete and add rows. Applying changes twice gives the same collection."""
        try:
            if self._width is not None:
                self._delete_videos(client, changes.gone_videos)
                for some in _split(changes.gone_ids.tolist(), self._filter_count):
                    client.delete(self._name, ids=some, timeout=self._timeout)
            for rows in self._held.read_new_rows(catalog, changes):
                self._upsert(client, catalog, rows)
        except BaseException:
            if changes.is_first:
                self._forget()  # the next refresh scans the added rows, which is faster than adding all again
            raise

    def _delete_videos(self, client: Any, videos: Sequence[int] | frozenset[int]) -> None:
        for some in _split(sorted(videos), self._filter_count):
            client.delete(self._name, filter=f"video in {some}", timeout=self._timeout)

    def _upsert(self, client: Any, catalog: Catalog, rows: VectorRows) -> None:
        width = rows.vectors.shape[1]
        if self._width is None:
            self._create(client, catalog, width)
        vectors = rows.vectors.astype(np.float16).astype(np.float32)  # rounded as in FAISS, for equal scores
        step = max(1, self._upsert_bytes // vectors[:1].nbytes)
        for first in range(0, len(rows.ids), step):
            some = slice(first, first + step)
            columns = (rows.ids[some].tolist(), rows.owners[some].tolist(), rows.stamps[some].tolist())
            entities = [
                {"id": key, "video": video, "stamp": stamp, "vector": vector}
                for key, video, stamp, vector in zip(*columns, vectors[some], strict=True)
            ]
            client.upsert(self._name, entities, timeout=self._timeout)

    def _create(self, client: Any, catalog: Catalog, width: int) -> None:
        """Create the collection, and drop those of the catalog's former encoders."""
        from pymilvus import DataType

        schema = client.create_schema(auto_id=False, enable_dynamic_field=False)
        for field, kind in FIELDS.items():
            more = {"is_primary": True} if field == "id" else {"dim": width} if field == "vector" else {}
            schema.add_field(field, getattr(DataType, kind), **more)
        indexes = client.prepare_index_params()
        # FLAT compares all rows: a text is far from all pictures, so an index that skips rows misses the nearest
        # (see the figures in serve.index.shard).
        indexes.add_index("vector", index_type="FLAT", metric_type="IP")
        indexes.add_index("video", index_type="INVERTED")
        space = catalog.space()
        if space is not None and space.fingerprint == self.fingerprint:
            family = self._name.removesuffix(self.fingerprint)
            for name in client.list_collections(timeout=self._timeout):
                if name.startswith(family) and name != self._name:
                    client.drop_collection(name, timeout=self._timeout)
        client.create_collection(self._name, schema=schema, consistency_level="Strong", timeout=self._timeout)
        client.create_index(self._name, indexes, sync=False, timeout=self._timeout)  # returns at once: no rows yet
        client.load_collection(self._name, timeout=LOAD_SECONDS)
        self._width = width
        logger.info("milvus collection made name=%s width=%d", self._name, width)

    def _count_rows(self, client: Any) -> int:
        if self._width is None:
            return 0
        # The count is only a metric: not worth waiting until every node agrees.
        counts = client.query(
            self._name, filter="", output_fields=["count(*)"], consistency_level="Eventually", timeout=self._timeout
        )
        return int(counts[0]["count(*)"])

    def _scan(self, catalog: Catalog) -> dict[int, float]:
        """Scan the collection and delete the rows of incomplete or unknown videos; return the stamp of each other video
        by row. Keeps the rows of live videos for _take_live()."""
        name = f"kinodex{FORMAT}_{self.kind}_{catalog.identity()}_{self.fingerprint}"
        self._name, self._width, self._live = re.sub(r"\W", "_", name), None, {}
        with self._connection.client() as client:
            if not client.has_collection(self._name, timeout=self._timeout):
                return {}
            width = self._collection_width(client)
            if width is None or _vector_width(catalog, self.kind, self.fingerprint) not in (None, width):
                logger.warning("milvus collection not used, creating it again name=%s", self._name)
                client.drop_collection(self._name, timeout=self._timeout)
                return {}
            client.load_collection(self._name, timeout=LOAD_SECONDS)
            self._width = width
            states = catalog.changed_rows(self.fingerprint)
            files: Counter[tuple[int, float]] = Counter()
            live: dict[int, list[tuple[int, float]]] = defaultdict(list)
            last = _last_key(catalog, self.kind)
            for key, video, stamp in self._read_all(client):
                if video in states and states[video].is_live:
                    if key <= last:  # another process may have added a later key for a newer state of the catalog
                        live[video].append((key, stamp))
                else:
                    files[video, stamp] += 1
            right = {
                video: stamp
                for (video, stamp), count in files.items()
                if video in states
                and states[video].indexed_time == stamp
                and _is_complete(catalog, self.kind, video, count)
            }
            wrong = {video for video, stamp in files if right.get(video) != stamp}
            self._delete_videos(client, sorted(wrong - _possibly_newer(catalog, wrong)))
            self._live = live
        return {video: stamp for video, stamp in right.items() if video not in wrong} | dict.fromkeys(live, 0.0)

    def _read_all(self, client: Any) -> Iterator[tuple[int, int, float]]:
        """Yield the id, video and stamp of all rows of the collection."""
        pages = client.query_iterator(
            self._name, batch_size=SCAN_COUNT, filter="", output_fields=["id", "video", "stamp"],
            consistency_level="Strong", timeout=self._timeout,
        )  # fmt: skip
        try:
            while page := pages.next():
                yield from ((row["id"], row["video"], row["stamp"]) for row in page)
        finally:
            pages.close()

    def _take_live(self, rows: Sequence[int]) -> Mapping[int, IdsAndStamps]:
        """Return the rows that _scan() read of some live videos, and forget them all."""
        live, self._live = self._live, {}
        return {
            row: (np.array([key for key, _ in live[row]], np.int64), np.array([stamp for _, stamp in live[row]]))
            for row in rows
            if row in live
        }

    def _collection_width(self, client: Any) -> int | None:
        """Return the width of the collection's vectors; None if the collection is not as _create() makes it."""
        description = client.describe_collection(self._name, timeout=self._timeout)
        fields = {field["name"]: field for field in description["fields"]}
        if {name: field["type"].name for name, field in fields.items()} != FIELDS or description["auto_id"]:
            return None
        return int(fields["vector"]["params"]["dim"])


def _vector_width(catalog: Catalog, kind: Kind, fingerprint: str) -> int | None:
    """Return the width of the vectors in a catalog; None if it has none."""
    widths = catalog.select(
        f"SELECT length(vector) / 4 FROM {kind} JOIN videos ON videos.row = video_row"
        " WHERE state = 'READY' AND fingerprint = ? AND vector IS NOT NULL LIMIT 1", fingerprint
    )  # fmt: skip
    return int(widths[0][0]) if widths else None


def _is_complete(catalog: Catalog, kind: Kind, video: int, count: int) -> bool:
    """Whether a file has exactly `count` rows with a vector."""
    ((listed,),) = catalog.select(f"SELECT {kind[:-1]}_count FROM videos WHERE row = ?", video)
    if listed == count:
        return True  # without reading all its rows
    query = f"SELECT count(*) FROM {kind} WHERE video_row = ? AND vector IS NOT NULL"
    return bool(catalog.select(query, video)[0][0] == count)


def _possibly_newer(catalog: Catalog, videos: set[int]) -> set[int]:
    """Return the videos that another process may have added for a newer state of the catalog."""
    last = _last_key(catalog, "videos")
    unfinished = {row for (row,) in catalog.select("SELECT row FROM videos WHERE state = 'PROCESSING'")}
    return {video for video in videos if video > last or video in unfinished}


def _last_key(catalog: Catalog, table: str) -> int:
    """Return the last key that a table of the catalog ever assigned."""
    ((last,),) = catalog.select("SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = ?", table)
    return int(last)


def _filters_for(wanted: Collection[int], held: Collection[int], count: int) -> list[str]:
    """Return filter expressions, of at most `count` videos each, that together select the wanted videos that are held.

    Each expression needs a search of its own.
    """
    chosen, others = [row for row in held if row in wanted], [row for row in held if row not in wanted]
    if not others:
        return [""]
    if len(others) < len(chosen) and len(others) <= count:
        return [f"video not in {others}"]  # the search leaves out videos that are not held
    return [f"video in {some}" for some in _split(chosen, count)]


def _split(values: Sequence[int], count: int) -> Iterator[list[int]]:
    """Yield the values in lists of at most `count`."""
    for first in range(0, len(values), count):
        yield list(values[first : first + count])
