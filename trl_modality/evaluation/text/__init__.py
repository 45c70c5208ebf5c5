"""Text-only skill: GSM8K, multiple choice in the form of MMLU, HumanEval; a base model against a trained one.

Nothing heavy is imported until it is used.
"""
