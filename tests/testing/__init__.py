"""What the tests share: tiny models, runs of trainers, other processes."""
