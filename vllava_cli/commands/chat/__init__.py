"""A conversation at the terminal: what is read, what is done with it, and how answers are shown."""
