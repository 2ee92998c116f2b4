"""From frames and audio to embeddings and words: open_clip, openai-whisper, sentence-transformers."""
