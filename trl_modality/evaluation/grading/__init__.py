"""Whether an answer is right: numbers with units, choices, words, formulas."""
