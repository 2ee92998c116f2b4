"""What is said: who says it, and in which language."""
