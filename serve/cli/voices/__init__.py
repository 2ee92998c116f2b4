"""Commands about who speaks in a video."""
