"""TemporalError: the root of this stage's errors. It has no conditions of its own yet; callers' mistakes are ValueError."""


class TemporalError(Exception):
    """Fusion or moment finding cannot do its work."""
