"""The life of a server: how it starts and ends, where it listens, and who may ask."""
