"""Opens sources: files below allowed roots, and URLs whose addresses are checked."""
