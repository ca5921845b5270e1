"""How long the frames of a clip take: ways to get them, each in a process of its own, that take turns."""
