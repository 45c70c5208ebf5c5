"""Asking many questions: batches, answers kept in a file, going on after an interruption."""
