"""A run of `vllava batch --ray` without a model: all that the driver does for real, the cluster in simulated time."""
