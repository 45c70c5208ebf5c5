"""Reading the folders of training runs and evaluations for a report."""
