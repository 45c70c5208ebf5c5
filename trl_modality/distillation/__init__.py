"""Whom a model learns from: teachers, and what holds the text view."""
