"""Media: a file on disk → the `Frames` that the model sees → tensors.

`sample` is the entry for every file, video or image; `pixels` alone knows torch. Nothing is imported here.
"""
