"""EncoderError
├── WeightsNotFound   no such model, or its weights cannot be had here
├── WeightsInvalid    the file is there, and is not what it should be
├── NoVisualEncoder   a question about pictures, and nothing here can see
└── PicturesInvalid   labelled pictures, to train or evaluate on, cannot be read
"""


class EncoderError(Exception):
    """An encoder cannot do its work."""


class WeightsNotFound(EncoderError):
    """No such model, or its weights cannot be had on this machine.

    Attributes:
        model: The model as the caller named it.
    """

    def __init__(self, model: str, reason: str) -> None:
        super().__init__(f"no weights for {model}: {reason}")
        self.model = model


class WeightsInvalid(EncoderError):
    """A weights file is damaged, or of another kind than its name says.

    Attributes:
        path: The file.
    """

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"cannot use weights {path}: {reason}")
        self.path = path


class NoVisualEncoder(EncoderError):
    """A question about pictures, and nothing here can see."""


class PicturesInvalid(EncoderError):
    """Labelled pictures, to train or evaluate on, cannot be read.

    Attributes:
        path: The file or folder.
    """

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"cannot use pictures {path}: {reason}")
        self.path = path
