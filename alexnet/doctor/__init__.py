"""`alexnet doctor`: checks that this machine is ready for a run, before it starts."""
