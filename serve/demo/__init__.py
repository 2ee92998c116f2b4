"""A small library of narrated videos that we made ourselves, and questions whose answers are known."""
