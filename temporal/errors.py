"""TemporalError: the root. The stage has no conditions of its own yet; callers' mistakes are ValueError."""


class TemporalError(Exception):
    """Fusion or moment finding cannot do its work."""
