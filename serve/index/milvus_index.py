"""Nearest vectors among the rows of a library past one machine: Milvus holds them, and answers as
serve.index.faiss_index does.

A collection of Milvus is a cache of one kind of row of one catalog and one encoder space, all of which are in its name:

    kinodex1_segments_CATALOG_ENCODERS    id: int64, the key; video: int64, its row; stamp: double; vector

So one of another library, of other encoders or of another format of ours is never asked; who makes the first of new
encoders takes those of the former ones away. The first refresh() reads the ids of what is there and believes only what
it knows: videos of the catalog, with their indexed_time and as many rows as they should have; rows of live videos by
when each was added. All else is taken out, and what is missing is put in. The vectors themselves are taken on trust:
who may write to Milvus may falsify answers.

Any number of processes may bring up one collection, as long as they share the data directory. It needs no lock between
them: keys are never used twice and what a key stands for never changes, so to put a row in again changes nothing, and
what one knows to be gone is gone for all. Each answers only with what it knows itself: what another has put in of a
newer state of the catalog is left out of its answers, and left in the collection. What a process that died left over is
put right when the next one starts. (A copy of a data directory goes its own way with the same keys: it needs a database
of its own in Milvus.)

Reads are strongly consistent, so that what was written before a question is in its answer, and what was deleted is not.
"""

import logging
import re
import threading
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from numpy.typing import NDArray

from serve.catalog.catalog import Catalog, Kind
from serve.config import IndexConfig
from serve.errors import IndexUnavailable, SettingsError
from serve.index.changes import Changes, HeldRows, Rows, Stored
from serve.index.nearest import Nearest, NearestWithVideos, best_of, check_question, distinct

logger = logging.getLogger(__name__)

FORMAT = 1  # of the collections; those of another have other names
MOST_FOUND = 16_384  # rows of one answer: Milvus's own limit
FILTER_COUNT = 5_000  # videos, or ids, named in one expression: 50 KB to parse
SCAN_COUNT = 10_000  # rows read at once when a collection is looked through
UPSERT_BYTES = 8 << 20  # of vectors put in at once: gRPC takes 64 MiB, and a proxy shares its memory with others
LOAD_SECONDS = 600.0  # for query nodes to take a whole collection into memory
LOST_CODES = (100, 101)  # Milvus's: the collection is not there, or not in memory
FIELDS = {"id": "INT64", "video": "INT64", "stamp": "DOUBLE", "vector": "FLOAT_VECTOR"}


class MilvusIndex:
    """Inner product over one kind of row of one encoder space, in Milvus. Any number of threads may ask."""

    def __init__(self, kind: Kind, fingerprint: str, config: IndexConfig) -> None:
        """Take what is needed; nothing is connected before refresh(), which fills it.

        Raises:
            SettingsError: If Milvus's client is not installed.
        """
        self.kind, self.fingerprint, self.config = kind, fingerprint, config
        self._pymilvus = _pymilvus(config)
        self._client: Any = None  # None: not connected
        self._is_answering, self._is_lost = True, False  # lost: the collection, and nothing is known of one
        self._turn = threading.RLock()
        self._holdings = HeldRows(kind, fingerprint)
        self._catalog: Catalog | None = None  # of the last refresh
        self._name = ""  # of the collection
        self._width: int | None = None  # None: there is no collection
        self._live: dict[int, list[tuple[int, float]]] = {}  # ids and stamps that a scan found, by row of a live video
        self._undone: list[Changes] = []  # told of already, and still to be done
        self._count = 0

    def __len__(self) -> int:
        """Return how many vectors there were after the last change."""
        return self._count

    def refresh(self, catalog: Catalog) -> None:
        """Bring the collection to the catalog's generation.

        Raises:
            IndexUnavailable: If Milvus does not answer; the next call goes on.
            DataDirectoryInvalid: If the catalog is damaged.
        """
        with self._turn, catalog.snapshot():
            if self._holdings.state == (catalog.identity(), catalog.generation()) and not self._undone:
                return
            self._catalog, self._is_lost = catalog, False
            try:
                self._bring_up(catalog)
            except IndexUnavailable:
                if not self._is_lost:
                    raise
                self._bring_up(catalog)  # the collection was taken away: it is made anew

    def search(self, vectors: NDArray[np.float32], k: int, *, rows: Sequence[int] | None = None) -> Nearest:
        """Find the nearest by inner product, as serve.index.faiss_index.VectorIndex.search() does.

        Raises:
            IndexUnavailable: If Milvus does not answer.
        """
        return self._found(vectors, k, rows)[:2]

    def videos(self, vector: NDArray[np.float32], k: int, *, rows: Sequence[int] | None = None) -> list[int]:
        """Return the videos that the nearest belong to, as serve.index.faiss_index.VectorIndex.videos(); raises as
        search()."""
        return distinct(self._found(vector[None], k, rows)[2][0])

    def _found(self, vectors: NDArray[np.float32], k: int, rows: Sequence[int] | None) -> NearestWithVideos:
        """Search, once more where the collection was lost."""
        check_question(vectors, k)
        if k > MOST_FOUND:
            raise ValueError(f"k must be <= {MOST_FOUND} with Milvus, got {k}")
        queries = np.ascontiguousarray(vectors, np.float32)
        try:
            return self._search(queries, k, rows)
        except IndexUnavailable:
            if not self._is_lost or self._catalog is None:
                raise
        self.refresh(self._catalog)
        return self._search(queries, k, rows)

    def close(self) -> None:
        """Hang up."""
        with self._turn:
            if self._client is not None:
                self._client.close()
            self._client = None

    # ---- asking

    @contextmanager
    def _asking(self) -> Iterator[Any]:
        """Give the client, connected; its failures become ours."""
        milvus = self._pymilvus
        try:
            with self._turn:
                if self._client is None:
                    self._client = milvus.MilvusClient(
                        self.config.milvus_uri, token=self.config.milvus_token, timeout=self._timeout
                    )
                client = self._client
            yield client
        except (milvus.MilvusException, grpc.RpcError) as error:
            if getattr(error, "code", None) in LOST_CODES:
                logger.warning("milvus collection lost name=%s", self._name)
                self._forget()
                self._is_lost = True
            elif self._is_answering:
                logger.warning("milvus does not answer uri=%s reason=%s", self.config.milvus_uri, error)
                self._is_answering = False
            raise IndexUnavailable() from error
        if not self._is_answering:
            logger.info("milvus answers again uri=%s", self.config.milvus_uri)
        self._is_answering = True

    @property
    def _timeout(self) -> float:
        return self.config.milvus_timeout_seconds

    def _forget(self) -> None:
        """Begin anew with the next refresh."""
        with self._turn:
            self._holdings.state, self._undone = None, []

    def _search(self, queries: NDArray[np.float32], k: int, rows: Sequence[int] | None) -> NearestWithVideos:
        with self._turn:
            name, width = self._name, self._width
            filters = [""] if rows is None else _filters(self._holdings.videos, set(rows))
        if width is None or not len(queries):
            return best_of([], len(queries), k)
        if width != queries.shape[1]:
            raise ValueError(f"vectors must be {width} wide, got {queries.shape[1]}")
        with self._asking() as client:
            found = [self._find(client, name, queries, k, each) for each in filters]
        return best_of(found, len(queries), k)

    def _find(self, client: Any, name: str, queries: NDArray[np.float32], k: int, among: str) -> NearestWithVideos:
        """Return the k best rows that are known here, and perhaps more; asks again while others take their places."""
        limit = k
        while True:
            answers = client.search(
                name, data=list(queries), anns_field="vector", limit=limit, filter=among,
                output_fields=["video", "stamp"], consistency_level="Strong", timeout=self._timeout,
                search_params={"metric_type": "IP"},
            )  # fmt: skip
            ids = np.full((len(queries), limit), -1, np.int64)
            scores = np.full((len(queries), limit), -np.inf, np.float32)
            videos = np.full((len(queries), limit), -1, np.int64)
            lacking = False
            for n, answer in enumerate(answers):
                rows = [(hit["id"], hit["entity"]["video"], hit["entity"]["stamp"]) for hit in answer]
                with self._turn:
                    is_held = self._holdings.holds(rows)
                ids[n, : len(rows)] = np.where(is_held, [key for key, _, _ in rows], -1)
                scores[n, : len(rows)] = np.where(is_held, [hit["distance"] for hit in answer], -np.inf)
                videos[n, : len(rows)] = np.where(is_held, [video for _, video, _ in rows], -1)
                lacking |= len(rows) == limit and int(is_held.sum()) < k
            if not lacking or limit == MOST_FOUND:
                return ids, scores, videos
            limit = min(4 * limit, MOST_FOUND)

    # ---- bringing up

    def _bring_up(self, catalog: Catalog) -> None:
        with self._asking() as client:
            changes = self._holdings.compare(catalog, self._load, self._stored)
            if changes is not None:
                self._undone = [changes] if changes.is_first else [*self._undone, changes]
                self._holdings.settle(changes)
            while self._undone:
                self._do(client, catalog, self._undone[0])
                del self._undone[0]
            self._count = self._counted(client)

    def _do(self, client: Any, catalog: Catalog, changes: Changes) -> None:
        """Take out and put in what is to be; what was done already is done again, to the same end."""
        try:
            if self._width is not None:
                self._take_out_videos(client, changes.gone_videos)
                for some in _parts(changes.gone_ids.tolist(), FILTER_COUNT):
                    client.delete(self._name, ids=some, timeout=self._timeout)
            for rows in self._holdings.new_rows(catalog, changes):
                self._put_in(client, catalog, rows)
        except BaseException:
            if changes.is_first:
                self._forget()  # to see how far it came is quicker than to do all of it again
            raise

    def _take_out_videos(self, client: Any, videos: Sequence[int] | frozenset[int]) -> None:
        for some in _parts(sorted(videos), FILTER_COUNT):
            client.delete(self._name, filter=f"video in {some}", timeout=self._timeout)

    def _put_in(self, client: Any, catalog: Catalog, rows: Rows) -> None:
        width = rows.vectors.shape[1]
        if self._width is None:
            self._create(client, catalog, width)
        vectors = rows.vectors.astype(np.float16).astype(np.float32)  # as FAISS holds them, so that scores are the same
        step = max(1, UPSERT_BYTES // vectors[:1].nbytes)
        for first in range(0, len(rows.ids), step):
            some = slice(first, first + step)
            columns = (rows.ids[some].tolist(), rows.owners[some].tolist(), rows.stamps[some].tolist())
            entities = [
                {"id": key, "video": video, "stamp": stamp, "vector": vector}
                for key, video, stamp, vector in zip(*columns, vectors[some], strict=True)
            ]
            client.upsert(self._name, entities, timeout=self._timeout)

    def _create(self, client: Any, catalog: Catalog, width: int) -> None:
        """Make the collection, and take away those of this catalog's former encoders."""
        types = self._pymilvus.DataType
        schema = client.create_schema(auto_id=False, enable_dynamic_field=False)
        for field, kind in FIELDS.items():
            more = {"is_primary": True} if field == "id" else {"dim": width} if field == "vector" else {}
            schema.add_field(field, getattr(types, kind), **more)
        indexes = client.prepare_index_params()
        # All rows are compared: a text is far from all pictures, and what skips any loses the nearest
        # (serve.index.shard).
        indexes.add_index("vector", index_type="FLAT", metric_type="IP")
        indexes.add_index("video", index_type="INVERTED")
        space = catalog.space()
        if space is not None and space.fingerprint == self.fingerprint:
            family = self._name.removesuffix(self.fingerprint)
            for name in client.list_collections(timeout=self._timeout):
                if name.startswith(family) and name != self._name:
                    client.drop_collection(name, timeout=self._timeout)
        client.create_collection(self._name, schema=schema, consistency_level="Strong", timeout=self._timeout)
        client.create_index(self._name, indexes, sync=False, timeout=self._timeout)  # nothing is there to be indexed
        client.load_collection(self._name, timeout=LOAD_SECONDS)
        self._width = width
        logger.info("milvus collection made name=%s width=%d", self._name, width)

    def _counted(self, client: Any) -> int:
        if self._width is None:
            return 0
        found = client.query(
            self._name, filter="", output_fields=["count(*)"], consistency_level="Eventually", timeout=self._timeout
        )  # only a measure: not worth the wait for every node
        return int(found[0]["count(*)"])

    # ---- the first look

    def _load(self, catalog: Catalog) -> dict[int, float]:
        """Look through the collection; take out what is not whole, or of no video; return the videos that are right."""
        name = f"kinodex{FORMAT}_{self.kind}_{catalog.identity()}_{self.fingerprint}"
        self._name, self._width, self._live = re.sub(r"\W", "_", name), None, {}
        with self._asking() as client:
            if not client.has_collection(self._name, timeout=self._timeout):
                return {}
            width = self._width_of(client)
            if width is None or self._width_in(catalog) not in (None, width):
                logger.warning("milvus collection is not ours, making it anew name=%s", self._name)
                client.drop_collection(self._name, timeout=self._timeout)
                return {}
            client.load_collection(self._name, timeout=LOAD_SECONDS)
            self._width = width
            states = catalog.changed_rows(self.fingerprint)
            files: Counter[tuple[int, float]] = Counter()
            live: dict[int, list[tuple[int, float]]] = defaultdict(list)
            last = _last_key(catalog, self.kind)
            for key, video, stamp in self._scanned(client):
                if video in states and states[video].is_live:
                    if key <= last:  # else another process may have it from a newer state of the catalog
                        live[video].append((key, stamp))
                else:
                    files[video, stamp] += 1
            right = {
                video: stamp
                for (video, stamp), count in files.items()
                if video in states and states[video].indexed_time == stamp and self._is_whole(catalog, video, count)
            }
            wrong = {video for video, stamp in files if right.get(video) != stamp}
            self._take_out_videos(client, sorted(wrong - self._not_known_yet(catalog, wrong)))
            self._live = live
        return {video: stamp for video, stamp in right.items() if video not in wrong} | dict.fromkeys(live, 0.0)

    def _scanned(self, client: Any) -> Iterator[tuple[int, int, float]]:
        """Yield id, video and stamp of all there is."""
        pages = client.query_iterator(
            self._name, batch_size=SCAN_COUNT, filter="", output_fields=["id", "video", "stamp"],
            consistency_level="Strong", timeout=self._timeout,
        )  # fmt: skip
        try:
            while page := pages.next():
                yield from ((row["id"], row["video"], row["stamp"]) for row in page)
        finally:
            pages.close()

    def _stored(self, rows: Sequence[int]) -> Mapping[int, Stored]:
        found, self._live = self._live, {}
        return {
            row: (np.array([key for key, _ in found[row]], np.int64), np.array([at for _, at in found[row]]))
            for row in rows
            if row in found
        }

    def _width_of(self, client: Any) -> int | None:
        """Return how wide the collection's vectors are; None: it is not as _create() makes it."""
        told = client.describe_collection(self._name, timeout=self._timeout)
        fields = {field["name"]: field for field in told["fields"]}
        if {name: field["type"].name for name, field in fields.items()} != FIELDS or told["auto_id"]:
            return None
        return int(fields["vector"]["params"]["dim"])

    def _width_in(self, catalog: Catalog) -> int | None:
        found = catalog.rows(
            f"SELECT length(vector) / 4 FROM {self.kind} JOIN videos ON videos.row = video_row"
            " WHERE state = 'READY' AND fingerprint = ? AND vector IS NOT NULL LIMIT 1", self.fingerprint
        )  # fmt: skip
        return int(found[0][0]) if found else None

    def _is_whole(self, catalog: Catalog, video: int, count: int) -> bool:
        """Whether a file has so many rows with a vector."""
        ((listed,),) = catalog.rows(f"SELECT {self.kind[:-1]}_count FROM videos WHERE row = ?", video)
        if listed == count:
            return True  # without reading all the rows
        counted = f"SELECT count(*) FROM {self.kind} WHERE video_row = ? AND vector IS NOT NULL"
        return bool(catalog.rows(counted, video)[0][0] == count)

    def _not_known_yet(self, catalog: Catalog, videos: set[int]) -> set[int]:
        """Return those that another process may have from a newer state of the catalog than this one."""
        last = _last_key(catalog, "videos")
        begun = {row for (row,) in catalog.rows("SELECT row FROM videos WHERE state = 'PROCESSING'")}
        return {video for video in videos if video > last or video in begun}


def _last_key(catalog: Catalog, table: str) -> int:
    """Return the last key that a table of the catalog ever gave."""
    ((last,),) = catalog.rows("SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = ?", table)
    return int(last)


def _filters(held: Collection[int], wanted: Collection[int]) -> list[str]:
    """Return expressions for the wanted ones of the videos that are held; several, each to be asked for itself."""
    chosen, others = [row for row in held if row in wanted], [row for row in held if row not in wanted]
    if not others:
        return [""]
    if len(others) < len(chosen) and len(others) <= FILTER_COUNT:
        return [f"video not in {others}"]  # what is not held is left out of the answer anyway
    return [f"video in {some}" for some in _parts(chosen, FILTER_COUNT)]


def _parts(values: Sequence[int], count: int) -> Iterator[list[int]]:
    for first in range(0, len(values), count):
        yield list(values[first : first + count])


def _pymilvus(config: IndexConfig) -> Any:
    """Import Milvus's client, and for a file milvus-lite with it."""
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
    # They print each failure, with traceback, that they raise as well.
    for library in ("pymilvus", "pymilvus.milvus_client", "milvus_lite"):
        logging.getLogger(library).setLevel(logging.CRITICAL)
    return pymilvus
