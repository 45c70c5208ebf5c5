"""The demo's data: pairs on small drawings of records from real tables, and text-only exercises."""
