"""Decodes bytes to pictures and sound in child processes: demuxing, sampling, scaling, tone mapping."""
