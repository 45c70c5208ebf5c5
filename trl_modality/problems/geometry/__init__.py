"""Plane geometry problems and their pictures; the entry point is `generate.plane_geometry`."""
