"""Live streams: cuts sources into chunks, puts chunks into order, and keeps a stream's clock."""
