"""Charts and tables: their data, questions about it, and their drawings; `problems.generate` registers them."""
