"""Shared by the tests of the doctor."""

from alexnet.commands.train import parse_train
from alexnet.config import TrainConfig
from alexnet.doctor.finding import Finding

# What `devices.probe` gives on a machine of one CPU.
CPU = {"version": "1.2", "platform": "cpu", "kind": "cpu", "count": 1, "processes": 1}


def config(*options: object) -> TrainConfig:
    """The run that these options of `alexnet train` describe."""
    return parse_train([str(option) for option in options])


def statuses(findings: list[Finding]) -> dict[str, str]:
    """The status of each check."""
    return {finding.check: finding.status for finding in findings}
