"""The time of a clip: its windows, its scenes, and what lies in a stretch of it."""
