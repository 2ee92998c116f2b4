"""Bytes to pictures and sound: decoding in a child process, sampling, tone mapping."""
