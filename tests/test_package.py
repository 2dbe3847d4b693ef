"""Rules for the source as a whole: no import cycles, and no advice that can't be followed."""

import ast
import graphlib
from collections.abc import Iterator

import pytest

from tests.conftest import ROOT

FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for package in ("alexnet", "alexnet_jax", "alexnet_torch")
    for path in sorted((ROOT / package).rglob("*.py"))
}


def imports(node: ast.AST, inside_functions: bool) -> Iterator[str]:
    """Names of modules, or of what is in them, that the code below a node imports when it runs."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            continue
        if isinstance(child, ast.FunctionDef) and not inside_functions:
            continue
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        if isinstance(child, ast.ImportFrom):
            assert child.level == 0, "relative imports are banned"
            yield from (f"{child.module}.{alias.name}" for alias in child.names)
        yield from imports(child, inside_functions)


def graph(everywhere: str) -> dict[str, set[str]]:
    """Modules and what each imports; in the package `everywhere`, inside functions, too."""
    edges = {}
    for module, path in FILES.items():
        names = imports(ast.parse(path.read_text()), module.startswith(everywhere))
        found = {name if name in FILES else name.rpartition(".")[0] for name in names}
        edges[module] = found & FILES.keys()
    return edges


def test_modules_import_each_other_in_one_direction():
    edges = graph(everywhere="alexnet.data")
    assert "alexnet.data.folder" in edges["alexnet.data.sources"]  # inside a function
    order = list(graphlib.TopologicalSorter(edges).static_order())
    assert order.index("alexnet.data.dataset") < order.index("alexnet.data.pipeline")


def test_the_data_package_knows_no_configuration():
    edges = graph(everywhere="alexnet.data")
    for module in edges:
        if module.startswith("alexnet.data"):
            assert not edges[module] & {"alexnet.config", "alexnet.recipes", "alexnet.cli"}, module


def test_control_a_cycle_is_noticed():
    edges = graph(everywhere="alexnet.data")
    edges["alexnet.data.dataset"] = {"alexnet.data.sources"}
    with pytest.raises(graphlib.CycleError):
        list(graphlib.TopologicalSorter(edges).static_order())


def test_no_message_names_a_package_that_no_index_has():
    """The project installs from a checkout: pip install -e '.[...]', never by its name."""
    for module, path in FILES.items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                assert "alexnet-two-frameworks[" not in node.value, module
                assert "install alexnet" not in node.value.replace("'", ""), module
