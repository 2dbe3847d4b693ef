"""Benchmarks: contenders in processes of their own, timed in alternation by one parent."""
