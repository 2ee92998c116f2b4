"""Text in pictures: reads it, chooses the pictures to read, and joins what several pictures show into lines."""
