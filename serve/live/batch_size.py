"""BatchSize: how much one transaction takes."""

MAX_RECORD_COUNT = 512  # of a transaction, however fast it is


class BatchSize:
    """How many records or segments one transaction takes, so that it lasts about a given time."""

    def __init__(self, seconds: float, max_count: int = MAX_RECORD_COUNT) -> None:
        self._seconds, self._max_count, self.count = seconds, max_count, 8

    def adapt(self, count: int, seconds: float) -> None:
        """Learn from the duration of one transaction."""
        if count:
            fitting = int(self._seconds * count / max(seconds, 1e-6))
            self.count = max(1, min(self._max_count, 2 * self.count, fitting))
