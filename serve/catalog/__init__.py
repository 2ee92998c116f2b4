"""What is indexed: one SQLite file in a data directory."""
