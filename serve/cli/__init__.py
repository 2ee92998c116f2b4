"""The command line: `kinodex`."""
