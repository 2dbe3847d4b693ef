"""Packages that fit together, and some that do not."""

from importlib import metadata

import pytest

from alexnet.doctor import versions
from alexnet.doctor.finding import OK, WARNING, WRONG
from tests.doctor.helpers import config, statuses


@pytest.fixture
def installed(monkeypatch):
    """A function that makes packages appear in other versions; None is not installed."""
    changed: dict[str, str | None] = {}
    true_version = metadata.version

    def version(name: str) -> str:
        found = changed[name] if name in changed else true_version(name)
        if found is None:
            raise metadata.PackageNotFoundError(name)
        return found

    monkeypatch.setattr(metadata, "version", version)
    return lambda **versions: changed.update({k.replace("_", "-"): v for k, v in versions.items()})


@pytest.mark.parametrize("framework", ["jax", "torch"])
def test_these_packages_fit_together(framework):
    findings = versions.check(config("--framework", framework, "--dataset", "tfds:x"))
    assert {finding.status for finding in findings} == {OK}, findings
    listed = next(finding.found for finding in findings if finding.check == "packages")
    assert f"{framework} {metadata.version(framework)}" in listed
    assert f"array-record {metadata.version('array_record')}" in listed


@pytest.mark.parametrize(
    ("broken", "found", "fix"),
    [
        ({"numpy": "1.26.4"}, "numpy is 1.26.4; alexnet-two-frameworks needs numpy", "[jax]"),
        ({"optax": None}, "optax is not installed; alexnet-two-frameworks needs optax", "[jax]"),
        ({"jaxlib": "0.9.0"}, "jaxlib is 0.9.0; jax needs jaxlib", "[jax]"),
        ({"flax": "0.12.8", "jax": "0.11.2", "jaxlib": "0.11.2"}, "needs jax below 0.11.1", "flax"),
        ({"libtpu": "0.0.1"}, "libtpu is 0.0.1; jax needs libtpu", "[tpu]"),
        ({"jax_cuda13_plugin": "0.7.0"}, "jax-cuda13-plugin is 0.7.0; jax needs", "[cuda]"),
    ],
)
def test_packages_that_do_not_fit(installed, broken, found, fix):
    installed(**broken)
    wrong = [f for f in versions.check(config()) if f.status == WRONG]
    assert any(found in finding.found and fix in finding.fix for finding in wrong), wrong


def test_packages_of_the_other_framework_do_not_matter(installed):
    installed(jax=None, flax="0.1", torchinfo="1.8.0")
    assert WRONG not in statuses(versions.check(config("--framework", "torch"))).values()


def test_jaxlib_of_another_version_that_jax_allows_is_a_warning(installed):
    bounds = next(n for n in versions._needs("jax", set()) if n.name == "jaxlib").specifier
    older = min(s.version for s in bounds if s.operator == ">=")
    installed(jaxlib=older)
    expected = [] if older == metadata.version("jax") else [WARNING]
    found = [f.status for f in versions.check(config()) if f.status != OK]
    assert found == expected


def test_a_checkout_that_was_not_installed(monkeypatch):
    def requires(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "requires", requires)
    (finding,) = versions.check(config())
    assert (finding.status, finding.fix) == (
        WARNING,
        "pip install -c constraints.txt -e '.[jax]'",
    )
