"""Benchmarks: contenders in separate processes, timed in alternation by one parent."""
