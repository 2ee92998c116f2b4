"""Live streams: cutting a source into chunks, putting chunks in order, the clock of a stream."""
