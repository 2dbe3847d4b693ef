"""A part of the torture program, counted by cases; `make torture` runs all of it."""

import pytest

from tests.torture.cases import CAMPAIGNS
from tests.torture.harness import run


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("torture")


@pytest.mark.parametrize("name", CAMPAIGNS)
def test_campaign(name, folder):
    cases = range(CAMPAIGNS[name].few)
    result = run(name, folder, cases=cases)
    assert not result.failures, [(message, result.again(case)) for case, message in result.failures]
    assert result.tried + result.skipped.total() == len(cases)
