"""Decodes bytes to pictures and sound: demuxing, sampling, scaling, tone mapping."""
