"""Scores along the time of one video, for pages that draw them."""
