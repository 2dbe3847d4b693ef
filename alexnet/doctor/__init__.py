"""`alexnet doctor`: checks of this machine for a run, before it starts."""
