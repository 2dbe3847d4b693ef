"""A part of the torture program, counted by cases; `make torture` runs all of it."""

import json
from collections import Counter

import pytest

from alexnet import sealed
from tests.torture import flips
from tests.torture.__main__ import main
from tests.torture.cases import CAMPAIGNS, Case
from tests.torture.examine import BY_COMMAND
from tests.torture.harness import Result, run
from tests.torture.runs import KINDS


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("torture")


def check(name, folder, cases, seconds=3600):
    """Try the cases, and count those that there was time for."""
    result = run(name, folder, cases=cases, seconds=seconds)
    assert not result.failures, [(message, result.again(case)) for case, message in result.failures]
    return result.tried + result.skipped.total()


@pytest.mark.parametrize("name", CAMPAIGNS)
def test_campaign(name, folder):
    few = CAMPAIGNS[name].few
    assert check(name, folder, range(few)) == few


@pytest.mark.slow
@pytest.mark.parametrize("name", CAMPAIGNS)
def test_campaign_at_length(name, folder):
    few = CAMPAIGNS[name].few
    # Ten minutes of all campaigns on any machine: some take six times as long as others here.
    count = check(name, folder, range(few, 8 * few), seconds=70)
    print(f"{name}: {count} of {7 * few}")
    assert count > 0


def failures(campaign, folder, own, cases):
    """How many of the cases don't hold, tried in this process."""
    campaign.prepare(folder)
    attempt, failed = campaign.begin(folder), 0
    for index in cases:
        case = Case("control", 0, index, own)
        try:
            attempt(case)
        except AssertionError:
            failed += 1
        finally:
            case.clear()
    return failed


def unchecked(path):
    values = json.loads(path.read_bytes())
    values.pop(sealed.DIGEST, None)
    return values


def test_control_without_digests_flipped_bits_are_silent(folder, tmp_path, monkeypatch):
    """The campaign finds what it is there for."""
    in_torch = range(1, 150, 2)
    cases = [index for index in in_torch if index % BY_COMMAND >= len(KINDS)]
    assert failures(flips, folder, tmp_path, cases) == 0
    monkeypatch.setattr(sealed, "read", unchecked)
    monkeypatch.setattr(
        "alexnet.checkpoints._digests", lambda state: unchecked(state.parent / "meta.json")["files"]
    )
    monkeypatch.setattr("alexnet.weights.canonical._check_digests", lambda *args: None)
    silent = failures(flips, folder, tmp_path, cases)
    print(f"{silent} of {len(cases)} flipped bits are silent")
    assert silent > 3


def test_control_whatever_a_case_does_to_its_process_is_a_failure(folder):
    result = run("control", folder, cases=range(5))
    assert result.held == 1
    words = ("SIGSEGV", "too long", "doesn't hold", "MemoryError")
    for (case, message), word in zip(result.failures, words, strict=True):
        assert word in message
        assert f"--only control --seed 0 --case {case}" in result.again(case)


def test_the_program_prints_a_table_and_ends_with_1_where_anything_failed(monkeypatch, capsys):
    def run_none(name, folder, **options):
        found = Result(name, 7, 3, held=1, kinds=Counter(refused=1))
        if name == "hostile":
            found.failures.append((2, "a.pth: \x1b[2J[/]"))
        return found

    monkeypatch.setattr("tests.torture.__main__.run", run_none)
    assert main(["--only", "flips", "--seed", "7"]) == 0
    assert "2 of 3 not reached in its time" in capsys.readouterr().out
    assert main(["--only", "flips,hostile", "--json"]) == 1
    flipped, hostile = json.loads(capsys.readouterr().out)
    assert flipped["failures"] == []
    assert hostile["failures"][0]["again"].endswith("--only hostile --seed 7 --case 2")
    assert main(["--only", "nothing"]) == 2
    assert "unknown campaign 'nothing'" in capsys.readouterr().err
