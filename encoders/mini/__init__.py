"""`mini`, the built-in visual encoder: the encoder, its network, and how it is trained and evaluated."""

from encoders.mini.encoder import FOLDER, NAME, MiniConfig, MiniEncoder

__all__ = ["FOLDER", "NAME", "MiniConfig", "MiniEncoder"]
