"""TemporalError
└── TrainingSetInvalid   captions or videos for training cannot be read, or are too few
"""


class TemporalError(Exception):
    """Fusion or moment finding cannot do its work."""


class TrainingSetInvalid(TemporalError):
    """Captions or videos for training cannot be read, or are too few."""
