"""`kinodex worker` and `kinodex publish`: chunks and files on Kafka to segments on Kafka. See README.md."""
