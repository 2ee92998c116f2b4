"""The first stage: from bytes to sampled frames and 16 kHz mono audio, decoded in child processes that may fail."""
