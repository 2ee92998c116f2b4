"""The server side of live video: kinodex.segments into the catalog."""
