"""ServeError
├── SettingsError          a settings file or variable is wrong
├── DataDirectoryMissing   nothing has been indexed there
├── DataDirectoryBusy      another process is writing there
├── DataDirectoryInvalid   the catalog is damaged, or newer than this program
├── EncoderSpaceMismatch   the rows were made by other encoders
├── VideoNotFound          no such video id
└── QuestionsInvalid       a file of questions with known answers cannot be used
"""


class ServeError(Exception):
    """The library cannot do what was asked."""


class SettingsError(ServeError):
    """A settings file or an environment variable is wrong."""


class DataDirectoryMissing(ServeError):
    """Nothing has been indexed in this data directory."""

    def __init__(self, directory: str) -> None:
        super().__init__(f"no library in {directory}: index something first (kinodex index PATH --data {directory})")
        self.directory = directory


class DataDirectoryBusy(ServeError):
    """Another process is writing to this data directory."""

    def __init__(self, directory: str, pid: int | None) -> None:
        who = f"process {pid}" if pid else "another process"
        super().__init__(f"{who} is writing to {directory}: wait for it, or choose another --data")
        self.directory, self.pid = directory, pid


class DataDirectoryInvalid(ServeError):
    """The catalog is damaged, or was written by a newer program."""

    def __init__(self, directory: str, reason: str) -> None:
        super().__init__(f"cannot use the library in {directory}: {reason}")
        self.directory, self.reason = directory, reason


class EncoderSpaceMismatch(ServeError):
    """The data directory's rows were made by other encoders than the ones asked for."""

    def __init__(self, directory: str, stored: str, wanted: str) -> None:
        super().__init__(
            f"{directory} was indexed with {stored}, and this run has {wanted}: "
            f"run `kinodex reindex` to move it, or name the first encoders again"
        )
        self.directory, self.stored, self.wanted = directory, stored, wanted


class VideoNotFound(ServeError):
    """No video of this id."""

    def __init__(self, video_id: str) -> None:
        super().__init__(f"no video {video_id}: see `kinodex list`")
        self.video_id = video_id


class QuestionsInvalid(ServeError):
    """A file of questions with known answers cannot be used."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"cannot use questions {path}: {reason}")
        self.path = path
