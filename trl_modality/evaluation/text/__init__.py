"""Text-only tasks (GSM8K, MMLU, HumanEval): accuracy of a model, and text regret of a trained model against its base.

Nothing heavy is imported until it is used.
"""
