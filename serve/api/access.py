"""What a caller may touch: collections, and videos by their ids."""

from collections.abc import Sequence

from serve.api.tokens import Principal
from serve.catalog.catalog import Catalog
from serve.errors import CollectionNotFound, PermissionDenied


class Access:
    """Checks callers against the collections that exist."""

    def __init__(self, catalog: Catalog) -> None:
        self.catalog = catalog

    def readable(self, principal: Principal, collections: Sequence[str] | None) -> tuple[str, ...] | None:
        """Return the collections that a call may read: those it names, else all that the caller may; None: all.

        Raises:
            PermissionDenied: If it names one that the caller may not read, whether or not there is one.
            CollectionNotFound: If it names one that is not there.
        """
        if collections is None:
            return None if principal.collections is None else tuple(sorted(principal.collections))
        for collection in collections:
            if not principal.may_read(collection):
                raise PermissionDenied(f"read collection {collection}")
            # A token's own collections were named by the operator: they are there before their first video is.
            if principal.collections is None and not self.catalog.has_collection(collection):
                raise CollectionNotFound(collection)
        return tuple(collections)

    def require_writable(self, principal: Principal, collection: str) -> None:
        """Let a call change a collection.

        Raises:
            PermissionDenied: If the caller may not.
        """
        if not principal.may_write(collection):
            raise PermissionDenied(f"change collection {collection}")
