"""The HTTP side of `kinodex serve`: the services as JSON, pictures, and the console's pages."""
