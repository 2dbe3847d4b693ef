"""Checks of installed packages against the versions that this project and its packages need."""

import platform
from collections.abc import Iterator
from importlib import metadata

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from alexnet.config import TrainConfig
from alexnet.doctor.finding import OK, WARNING, WRONG, Finding, install

PROJECT = "alexnet-two-frameworks"
# JAX's extras for accelerators, and the extras of this project that install them.
_JAX_EXTRAS = {"tpu": "tpu", "cuda13": "cuda", "cuda12": "cuda"}


def check(config: TrainConfig) -> list[Finding]:
    """Check the installed packages against their declared version bounds and undeclared ones."""
    extras: set[str] = {config.framework}
    if config.data.dataset.startswith("tfds:"):
        extras.add("tfds")
    if "gs://" in f"{config.run.workdir} {config.data.dataset} {config.model.init_from}":
        extras.add("gcs")
    try:
        needs = list(_needs(PROJECT, extras))
    except metadata.PackageNotFoundError:
        found = "this project is not installed, so the bounds of its packages are not known"
        return [Finding("packages", WARNING, found, install(config.framework))]
    return [*_packages(needs, install(",".join(sorted(extras)))), *_unstated()]


def _packages(needs: list[Requirement], fix: str) -> list[Finding]:
    """Check this project's requirements, theirs in turn, and JAX's accelerator packages."""
    every = [(PROJECT, need, fix) for need in needs]
    for need in filter(lambda need: _installed(need.name), needs):
        every += [(need.name, inner, fix) for inner in _needs(need.name, need.extras)]
    if any(need.name == "jax" for need in needs) and _installed("jax"):
        always = {need.name for need in _needs("jax", set())}
        for theirs, ours in _JAX_EXTRAS.items():
            parts = [need for need in _needs("jax", {theirs}) if need.name not in always]
            every += [("jax", need, install(ours)) for need in parts if _installed(need.name)]
    # If several need the same package, the first one's command is used.
    found_wrong = ((_problem(by, need), fix) for by, need, fix in reversed(every))
    wrong = {problem: fix for problem, fix in found_wrong if problem}
    if wrong:
        return [Finding("packages", WRONG, problem, fix) for problem, fix in wrong.items()]
    named = "".join(f", {need.name} {_installed(need.name)}" for need in needs if need.marker)
    found = f"Python {platform.python_version()}{named}; all {len(needs)} are within their bounds"
    return [Finding("packages", OK, found)]


def _needs(name: str, extras: set[str]) -> Iterator[Requirement]:
    """Requirements of a distribution that apply here, with these of its extras."""
    for text in metadata.requires(name) or ():
        need = Requirement(text)
        if need.marker and not any(need.marker.evaluate({"extra": e}) for e in extras | {""}):
            continue
        if canonicalize_name(need.name) == canonicalize_name(name):
            yield from _needs(name, need.extras)
        else:
            yield need


def _installed(name: str) -> Version | None:
    try:
        return Version(metadata.version(name))
    except metadata.PackageNotFoundError:
        return None


def _problem(by: str, need: Requirement) -> str | None:
    """A description of how an installed package fails another one's requirement, if it does."""
    version = _installed(need.name)
    if version and need.specifier.contains(version, prereleases=True):
        return None
    return f"{need.name} is {version or 'not installed'}; {by} needs {need.name}{need.specifier}"


def _unstated() -> Iterator[Finding]:
    """Find versions that don't work together although their own bounds allow it."""
    jax, jaxlib, flax = (_installed(name) for name in ("jax", "jaxlib", "flax"))
    if jax and jaxlib and jax != jaxlib:
        found = f"jax is {jax}, jaxlib {jaxlib}: they are tested as one version"
        yield Finding("packages", WARNING, found, f"pip install jaxlib=={jax}")
    if jax and flax and flax <= Version("0.12.8") and jax >= Version("0.11.1"):
        found = f"flax {flax} needs jax below 0.11.1, which its own bounds leave out; jax is {jax}"
        yield Finding("packages", WRONG, found, "pip install --upgrade 'flax>0.12.8,<0.13'")
