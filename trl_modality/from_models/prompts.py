"""What a model is asked so that it tells the facts of a picture, by the kind of picture."""

_RULES = " Write nothing that is not in the picture, no comment and no conclusion. Write plain text."

PROMPTS = {
    "any": "Write down everything that can be read or seen in this picture: all words and numbers, exactly as they "
    "are, and what belongs to what." + _RULES,
    "chart": "Write this chart as text: its title, the names and units of its axes, and then every value with the "
    "series and the category that it belongs to, one in a line." + _RULES,
    "table": "Write this table as text: its title, then every row in a line of its own, with ` | ` between the cells, "
    "beginning with the names of the columns." + _RULES,
    "diagram": "Describe this diagram in sentences: every labelled point, line, angle and shape, every given length, "
    "angle and mark, and how they lie to one another." + _RULES,
    "document": "Transcribe this document word by word in reading order; rows of tables in a line each, with ` | ` "
    "between the cells." + _RULES,
    "photo": "Describe this photo in sentences: what is in it, how many of each, their colours, where they are and "
    "what they do, and every word that can be read." + _RULES,
}
"""Prompts by kind of picture. None of them shows the question, so that no answer to it can be in what comes back."""
