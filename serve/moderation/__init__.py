"""Policies, events, standing queries, and who is told."""
