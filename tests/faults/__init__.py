"""Faults that a run or an evaluation may meet, and what must be seen of each: `docs/faults.md` is made of them."""
