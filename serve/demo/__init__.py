"""A small library of narrated videos made for kinodex, and questions about them with known answers."""
