"""Cached image features: what a frozen vision tower makes of an image, kept on disk (`cache_image_features`)."""
