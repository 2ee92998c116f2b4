"""Fusion: the transformer that makes one vector of a window, its training and its measure."""
