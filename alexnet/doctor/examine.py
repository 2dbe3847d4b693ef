"""All checks, run one after another; the failure of one doesn't stop the others."""

from collections.abc import Callable
from typing import Any

from alexnet.config import TrainConfig
from alexnet.data.dataset import Dataset
from alexnet.doctor import data, devices, disk, versions
from alexnet.doctor.finding import WRONG, Finding
from alexnet.errors import RunError, UserError

_CLASSES = 1000  # ImageNet's, if the data set can't be opened


def examine(config: TrainConfig) -> list[Finding]:
    """Check this machine for the run that the configuration describes."""
    seen: dict[str, Any] = {}
    datasets: list[Dataset] = []

    def check_devices() -> list[Finding]:
        seen.update(devices.probe(config))
        return devices.check(seen, config)

    def check_data() -> list[Finding]:
        datasets.append(config.open_dataset())
        return data.check(datasets[0], config)

    def check_space() -> list[Finding]:
        classes = datasets[0].num_classes if datasets else _CLASSES
        return disk.check_space(config, config.spec(classes))

    checks: dict[str, Callable[[], list[Finding]]] = {
        "packages": lambda: versions.check(config),
        "devices": check_devices,
        "data": check_data,
        "work directory": lambda: [disk.check_workdir(config, seen.get("processes", 1))],
        "disk": check_space,
    }
    return [finding for name, check in checks.items() for finding in _guarded(name, check)]


def _guarded(name: str, check: Callable[[], list[Finding]]) -> list[Finding]:
    """A check's findings; if the check itself fails, that is a finding, too."""
    try:
        return check()
    except (UserError, RunError) as error:
        return [Finding(name, WRONG, str(error))]
    except OSError as error:
        return [Finding(name, WRONG, f"{error.filename or ''} {error.strerror or error}".strip())]
    except Exception as error:
        return [Finding(name, WRONG, f"this check failed: {type(error).__name__}: {error}")]
