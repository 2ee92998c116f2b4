"""Decodes untrusted bytes in child processes that can reach nothing else."""
