"""Long work on many items: in batches over processes, kept in a file, continued; one writer of a folder at a time."""
