"""Charts and tables: data, questions about them, and their drawings. `data.generate` knows them by name."""
