"""The composition root: catalog, index, query engine, and the one command."""
