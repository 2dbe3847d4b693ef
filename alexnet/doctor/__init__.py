"""`alexnet doctor`: whether a run can go well on this machine, looked at before it starts."""
