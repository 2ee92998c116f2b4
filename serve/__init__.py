"""The composition root: catalog, index, search, server, worker, and the command `kinodex`."""
