"""Reading what runs and evaluations wrote."""
