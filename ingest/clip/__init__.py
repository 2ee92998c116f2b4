"""Cuts clips out of media: copied from the keyframe before, or encoded anew. It runs in the sandbox."""
