"""Generators, which answer requests: transformers models, servers, and `ZoomGenerator`, which adds a crop."""
