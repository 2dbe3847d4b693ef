"""`alexnet doctor` as a command: exit codes, JSON, and no check that stops another."""

import json

import pytest

from alexnet import cli
from alexnet.doctor import devices, disk, examine, versions
from alexnet.doctor.finding import OK, WARNING, WRONG, Finding
from alexnet.report.doctor import print_findings
from tests.doctor.helpers import CPU
from tests.test_imports import ALL, modules_after

CHECKS = ["packages", "devices", "data", "work directory", "disk"]


@pytest.fixture
def probed(monkeypatch):
    """No framework is started: its devices are these."""
    monkeypatch.setattr(devices, "probe", lambda config: CPU)


def test_nothing_wrong(probed, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["doctor", "--framework", "torch"]) == 0
    printed = capsys.readouterr().out
    assert printed.endswith("all checks passed\n")
    for name in (*CHECKS, "Python 3.", "examples", "1,438 training"):
        assert name in printed
    assert list(tmp_path.iterdir()) == []


def test_json(probed, capsys, tmp_path):
    assert cli.main(["doctor", "--json", "--workdir", str(tmp_path)]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["passed"]
    assert {name for finding in report["findings"] for name in finding} == {
        "check", "status", "found", "fix"
    }  # fmt: skip
    assert {finding["check"] for finding in report["findings"]} > set(CHECKS)


def test_every_check_is_made_whatever_the_others_meet(probed, capsys, monkeypatch, tmp_path):
    def fail(*_):
        raise ZeroDivisionError("oops")

    monkeypatch.setattr(versions, "check", fail)
    monkeypatch.setattr(disk, "check_space", fail)
    monkeypatch.setattr(devices, "probe", fail)
    options = ["--dataset", f"folder:{tmp_path / 'nothing'}", "--workdir", "/proc/run"]
    assert cli.main(["doctor", "--json", *options]) == 1
    findings = {f["check"]: f for f in json.loads(capsys.readouterr().out)["findings"]}
    assert list(findings) == CHECKS
    assert "ZeroDivisionError: oops" in findings["packages"]["found"]
    assert "there is no folder" in findings["data"]["found"]
    wrong = [name for name, f in findings.items() if f["status"] == WRONG]
    assert wrong == CHECKS


def test_warnings_do_not_fail(probed, capsys, monkeypatch):
    warning = Finding("packages", WARNING, "old", "pip install new")
    monkeypatch.setattr(versions, "check", lambda _: [warning])
    assert cli.main(["doctor"]) == 0
    printed = capsys.readouterr().out
    assert printed.endswith("packages: pip install new\n1 warning\n")


@pytest.mark.parametrize(
    ("statuses", "line"),
    [
        ([OK, OK], "all checks passed"),
        ([OK, WARNING], "1 warning"),
        ([WRONG, OK, WARNING, WARNING], "1 problem, 2 warnings"),
        ([WRONG, WRONG], "2 problems"),
    ],
)
def test_the_last_line_counts(statuses, line, capsys):
    print_findings([Finding("x", status, "y") for status in statuses])
    assert capsys.readouterr().out.splitlines()[-1] == line


def test_the_run_that_is_checked_is_the_one_described(probed, capsys, tmp_path):
    options = ["--dataset", "synthetic", "--batch-size", "512", "--data-dir", str(tmp_path)]
    assert cli.main(["doctor", *options]) == 0
    assert "1,024 training and 256 test examples, 1,000 classes, 2 steps" in capsys.readouterr().out
    assert cli.main(["doctor", "--variant", "papre"]) == 2
    assert "did you mean 'paper'" in capsys.readouterr().err


def test_an_error_without_a_sentence_gets_one():
    def unreadable():
        raise PermissionError(13, "Permission denied", "/data/val")

    (finding,) = examine._guarded("data", unreadable)
    assert (finding.status, finding.found) == (WRONG, "/data/val Permission denied")


@pytest.mark.parametrize("framework", ["jax", "torch"])
def test_the_command_itself_imports_no_framework(framework):
    loaded = modules_after(
        f"from alexnet.cli import main\nassert main(['doctor', '--framework', '{framework}']) == 0"
    )
    assert not loaded & ALL


def test_help_imports_nothing_slow():
    loaded = modules_after(
        "from alexnet.cli import main\ntry: main(['doctor', '--help'])\nexcept SystemExit: pass"
    )
    assert not loaded & (ALL | {"numpy", "tyro", "rich"})
