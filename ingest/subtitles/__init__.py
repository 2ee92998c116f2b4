"""Reads subtitles: tracks of a container, and files beside a video. Runs in the decoding child process."""
