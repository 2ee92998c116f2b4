"""The API of kinodex, version 1: generated from the .proto files beside it (`make protos`)."""
