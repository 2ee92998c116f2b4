"""Moments: the spans of a video that answer a question, from the curve of its frames."""
