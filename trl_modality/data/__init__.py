"""Problems (facts, question, answer) and the pairs made from them. Nothing heavy is imported until it is called."""
