"""Clips and montages of the library's videos."""
