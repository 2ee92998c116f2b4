"""EncoderError
├── WeightsNotFound   no such model, or its weights are not available on this machine
├── WeightsInvalid    the weights file is damaged, or of another kind
├── NoVisualEncoder   a question about pictures, and the library has no visual encoder
└── PicturesInvalid   labelled pictures for training or evaluation cannot be read
"""


class EncoderError(Exception):
    """An encoder cannot do its work."""


class WeightsNotFound(EncoderError):
    """No such model, or its weights are not available on this machine.

    Attributes:
        model: The model as the caller named it.
    """

    def __init__(self, model: str, reason: str) -> None:
        super().__init__(f"no weights for {model}: {reason}")
        self.model = model


class WeightsInvalid(EncoderError):
    """A weights file is damaged, or its contents do not fit its name.

    Attributes:
        path: The file.
    """

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"cannot use weights {path}: {reason}")
        self.path = path


class NoVisualEncoder(EncoderError):
    """The question needs a visual encoder, and the library has none."""


class PicturesInvalid(EncoderError):
    """Labelled pictures for training or evaluation cannot be read.

    Attributes:
        path: The file or folder.
    """

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"cannot use pictures {path}: {reason}")
        self.path = path
