"""Speech to words with times: voice activity, Whisper, word alignment."""
