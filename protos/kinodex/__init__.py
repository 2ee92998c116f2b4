"""The client import of kinodex: `kinodex.v1` holds the API's messages and stubs."""
