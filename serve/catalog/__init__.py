"""The catalog: indexed videos and all rows of them, in one SQLite file of a data directory."""
