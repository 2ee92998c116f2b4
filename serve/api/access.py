"""Access: checks which collections a caller may read and change. The services of the API use it for every call."""

from collections.abc import Sequence

from serve.api.tokens import Principal
from serve.catalog.catalog import Catalog
from serve.errors import CollectionNotFound, PermissionDenied


class Access:
    """Checks callers against their tokens and the collections of the catalog."""

    def __init__(self, catalog: Catalog) -> None:
        self.catalog = catalog

    def readable_collections(self, principal: Principal, named: Sequence[str] | None) -> tuple[str, ...] | None:
        """Return the collections that a call may read: those it names, or else all that the caller may read.

        Args:
            named: The collections that the request names; None: it names none.
        Returns:
            None for all collections, present and future.
        Raises:
            PermissionDenied: If the caller may not read a named collection, whether or not it exists.
            CollectionNotFound: If a named collection does not exist.
        """
        if named is None:
            return None if principal.collections is None else tuple(sorted(principal.collections))
        for collection in named:
            if not principal.may_read(collection):
                raise PermissionDenied(f"read collection {collection}")
            # The operator named the collections of a token: they exist even before their first video is indexed.
            if principal.collections is None and not self.catalog.has_collection(collection):
                raise CollectionNotFound(collection)
        return tuple(named)

    def require_writable(self, principal: Principal, collection: str) -> None:
        """Check that the caller may change a collection.

        Raises:
            PermissionDenied: If not.
        """
        if not principal.may_write(collection):
            raise PermissionDenied(f"change collection {collection}")
