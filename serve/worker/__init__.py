"""`kinodex worker` and `kinodex publish`: chunks to segments."""
