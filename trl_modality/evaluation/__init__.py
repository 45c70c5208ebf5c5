"""How well a model answers: the gap between the views, what is right, text skill. Nothing heavy is imported here."""
