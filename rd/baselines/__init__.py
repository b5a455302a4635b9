"""The seven baselines of Table 2, each a file that adds what its paper added to the shell (papers/baselines.md)."""
