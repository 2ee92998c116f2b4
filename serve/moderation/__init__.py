"""Moderation: policies, the events that they find in videos, their delivery, and standing queries. See README.md."""
