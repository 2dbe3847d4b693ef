"""Whether the installed packages fit together, by what each of them says that it needs."""

import platform
from collections.abc import Iterator
from importlib import metadata

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

from alexnet.config import TrainConfig
from alexnet.doctor.finding import OK, WARNING, WRONG, Finding, install
from alexnet.files import is_remote

PROJECT = "alexnet-two-frameworks"
# JAX's extras for accelerators, and this project's that install them.
_JAX_EXTRAS = {"tpu": "tpu", "cuda13": "cuda", "cuda12": "cuda"}


def check(config: TrainConfig) -> list[Finding]:
    """Python and packages against their bounds, and the traps that no bounds tell of."""
    extras = {config.framework}
    if config.data.dataset.startswith("tfds:"):
        extras.add("tfds")
    if is_remote(config.run.workdir or "") or "gs://" in config.data.dataset:
        extras.add("gcs")
    try:
        needs = list(_needs(PROJECT, extras))
    except metadata.PackageNotFoundError:
        found = "this project is not installed, so the bounds of its packages are not known"
        return [Finding("packages", WARNING, found, install(config.framework))]
    return [
        _python(),
        *_packages(needs, install(",".join(sorted(extras)))),
        *(_jax_traps() if config.framework == "jax" else ()),
    ]


def _python() -> Finding:
    version, bounds = platform.python_version(), metadata.metadata(PROJECT)["Requires-Python"]
    if SpecifierSet(bounds).contains(version, prereleases=True):
        return Finding("python", OK, version)
    return Finding(
        "python", WRONG, f"{version}, but this project needs {bounds}",
        "make a virtual environment with another: python3.12 -m venv .venv",
    )  # fmt: skip


def _packages(needs: list[Requirement], fix: str) -> list[Finding]:
    """What this project needs, and what that in turn needs."""
    problems = [_problem(PROJECT, need) for need in needs]
    for need in needs:
        if _installed(need.name):
            problems += [_problem(need.name, inner) for inner in _needs(need.name, need.extras)]
    if found := dict.fromkeys(problem for problem in problems if problem):
        return [Finding("packages", WRONG, problem, fix) for problem in found]
    named = [f"{need.name} {_installed(need.name)}" for need in needs if need.marker]
    found = f"{', '.join(named)}; all {len(needs)} are within their bounds"
    return [Finding("packages", OK, found)]


def _needs(name: str, extras: set[str]) -> Iterator[Requirement]:
    """What a distribution needs here, with these extras of its own."""
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
    """In words, how an installed package is not what another one needs."""
    version = _installed(need.name)
    bounds = f"{need.name}{need.specifier}"
    if version is None:
        return f"{need.name} is not installed; {by} needs {bounds}"
    if need.specifier.contains(version, prereleases=True):
        return None
    return f"{need.name} is {version}; {by} needs {bounds}"


def _jax_traps() -> Iterator[Finding]:
    jax, jaxlib, flax = (_installed(name) for name in ("jax", "jaxlib", "flax"))
    if jax and jaxlib and jax != jaxlib:
        found = f"jax is {jax}, jaxlib {jaxlib}: they are tested as one version"
        yield Finding("packages", WARNING, found, f"pip install jaxlib=={jax}")
    if jax and flax and flax <= Version("0.12.8") and jax >= Version("0.11.1"):
        yield Finding(
            "packages", WRONG, f"flax {flax} needs jax below 0.11.1, which its own bounds leave "
            f"out; jax is {jax}", "pip install --upgrade 'flax>0.12.8,<0.13'",
        )  # fmt: skip
    yield from _jax_plugins() if jax else ()


def _jax_plugins() -> Iterator[Finding]:
    """Installed parts of JAX for accelerators that are not of JAX's version."""
    always = {need.name for need in _needs("jax", set())}
    for jax_extra, extra in _JAX_EXTRAS.items():
        for need in _needs("jax", {jax_extra}):
            if need.name in always or not _installed(need.name):
                continue
            if problem := _problem(f"jax[{jax_extra}] {_installed('jax')}", need):
                yield Finding("packages", WRONG, problem, install(extra))
