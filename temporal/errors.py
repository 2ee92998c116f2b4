"""TemporalError
└── TrainingSetInvalid   there is too little, or nothing, to train on
"""


class TemporalError(Exception):
    """Fusion or moment finding cannot do its work."""


class TrainingSetInvalid(TemporalError):
    """Captions or videos to train on cannot be read, or are too few."""
