"""Chooses the tracks of an input, reads their packets, and follows them where they change."""
