"""The commands that show what a library or a server holds and does."""
