"""The problems of the demo: records of real tables, drawn small, and exercises in words alone."""
