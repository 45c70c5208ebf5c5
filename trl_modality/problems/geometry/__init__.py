"""Plane geometry problems with their pictures; `generate.plane_geometry` makes them."""
