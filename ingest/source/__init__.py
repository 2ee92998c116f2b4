"""Where bytes come from: files below allowed roots, and URLs whose addresses are checked."""
