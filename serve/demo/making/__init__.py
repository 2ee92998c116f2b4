"""Makes the videos and questions of the demo. Left out of the wheel: only a checkout needs it."""
