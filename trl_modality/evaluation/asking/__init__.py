"""Asking many questions in batches, with answers kept in a file and continued after an interruption."""
