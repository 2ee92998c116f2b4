"""Live videos on the server: segments from Kafka into the catalog, deletions to Kafka. See README.md."""
