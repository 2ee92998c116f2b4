"""From embeddings and words to segments, and from similarity curves to moments."""
