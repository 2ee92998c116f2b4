"""Files and URLs into the catalog."""
