"""Cues: texts with the times from and to which they hold, and the forms in which they are written. Pure."""
