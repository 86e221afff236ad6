"""Least squares over the weights that read removed units: which go with that in mind, and what the rest take over."""
