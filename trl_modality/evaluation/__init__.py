"""What a trained model knows per view. Nothing heavy is imported until a module of this package is."""
