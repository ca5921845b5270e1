"""Media: a file on disk → the `Frames` that the model sees → tensors.

`sample` reads every file, video or image; only `pixels` imports torch. This module imports nothing.
"""
