"""kinodex.v1 messages <-> values: the API and the Kafka records."""
