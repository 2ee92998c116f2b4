"""Commands that act on an answer: play it, cut it out, write it for other programs."""
