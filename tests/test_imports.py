"""Who may import whom: the rules of the package's layout, read from the source."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import bioshare

PACKAGE = Path(bioshare.__file__).parent
PURE_FILES = "theory", "arguments", "circuits", "rules", "stimuli", "mirror.theory", "mirror.circuit"
PURE = tuple(f"bioshare.circuit.{name}" for name in PURE_FILES)
CHECKS = "bioshare.checks"


def module_name(path):
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(path):
    """Full names of everything that a file imports, in functions and under TYPE_CHECKING too.

    Public names that are imported when they are used stand in a stub, relative to the package.
    """
    names, relative = set(), path.suffix == ".pyi"
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == relative, f"{path}: imports are relative in stubs, and absolute elsewhere"
            home = [module_name(path), node.module] if relative else [node.module]
            names |= {".".join([*filter(None, home), alias.name]) for alias in node.names}
    return names


def inside(name, *packages):
    return any(name == package or name.startswith(f"{package}.") for package in packages)


IMPORTS = {module_name(path): imported(path) for path in PACKAGE.rglob("*.py")}
for stub in PACKAGE.rglob("*.pyi"):
    IMPORTS[module_name(stub)] |= imported(stub)


def importers(*packages):
    """The modules that import one of these packages."""
    return {module for module, names in IMPORTS.items() if any(inside(name, *packages) for name in names)}


def within(modules, *packages):
    return {module for module in modules if inside(module, *packages)}


def test_the_rules_see_the_whole_package():
    assert {*PURE, CHECKS, "bioshare", "bioshare.circuit.exact", "bioshare.bridge"} <= IMPORTS.keys()
    assert "bioshare.circuit.brian" in importers("bioshare.circuit.problem")


def test_circuit_imports_neither_networks_nor_what_is_built_on_them():
    assert not within(importers("bioshare.nn", "bioshare.bridge", "bioshare.train"), "bioshare.circuit")


def test_nn_imports_nothing_of_bioshare_but_itself_and_the_argument_checks():
    for module in within(IMPORTS, "bioshare.nn"):
        assert all(inside(name, "bioshare.nn", CHECKS) for name in IMPORTS[module] if inside(name, "bioshare")), module


def test_bridge_imports_circuit_and_nn_and_not_what_is_built_on_it():
    assert "bioshare.bridge.sleep" in importers("bioshare.circuit") & importers("bioshare.nn")
    assert not within(importers("bioshare.train", "bioshare.__main__"), "bioshare.bridge")


def test_train_imports_nn_and_bridge_but_no_engine():
    assert within(importers("bioshare.nn"), "bioshare.train")
    assert within(importers("bioshare.bridge"), "bioshare.train")
    engines = ("bioshare.circuit.exact", "bioshare.circuit.brian", "bioshare.circuit.loop")
    assert not within(importers(*engines), "bioshare.train")


def test_the_explorer_imports_circuit_and_only_the_command_line_and_the_public_names_import_it():
    for module in within(IMPORTS, "bioshare.explorer"):
        ours = {name for name in IMPORTS[module] if inside(name, "bioshare")} - {"bioshare"}
        allowed = ("bioshare.explorer", "bioshare.circuit", "bioshare.files", "bioshare.progress", CHECKS)
        assert all(inside(name, *allowed) for name in ours), module
    assert "bioshare.explorer.result" in importers("bioshare.circuit")
    assert importers("bioshare.explorer") - within(IMPORTS, "bioshare.explorer") == {"bioshare"}


def test_nothing_in_the_library_imports_the_benches():
    benches = within(IMPORTS, "bioshare.bench")
    assert benches
    assert importers("bioshare.bench") <= benches


@pytest.mark.parametrize("outside", ["figures", "notebooks", "tests"])
def test_nothing_imports_what_lies_outside_the_package(outside):
    assert not importers(outside)


def test_the_engines_never_import_each_other():
    for package in ("bioshare.circuit", "bioshare.circuit.mirror"):
        engines = {f"{package}.{name}" for name in ("exact", "brian", "loop")}
        for engine in engines:
            assert not within(importers(engine), *(engines - {engine}))


def test_only_the_engines_of_brian_import_brian2():
    engines = {"bioshare.circuit.brian", "bioshare.circuit.mirror.brian"}
    assert importers("brian2") == engines | {"bioshare.circuit.own_equations"}
    assert importers("bioshare.circuit.own_equations") == {"bioshare.circuit.brian"}


def test_only_the_exact_engine_imports_numba():
    assert within(importers("numba"), "bioshare.circuit.exact") == importers("numba") != set()


def test_only_the_fused_kernels_import_triton_and_only_the_choice_of_a_form_imports_them():
    assert importers("triton") == {"bioshare.nn.fused", "bioshare.nn.kernels"}
    assert importers("bioshare.nn.fused") == {"bioshare.nn.forms"}


def test_what_the_engines_share_does_not_import_torch():
    shared = {f"bioshare.circuit.{name}" for name in ("problem", "prepare", "run", "simulate", "loop", "brian")}
    shared |= within(IMPORTS, "bioshare.circuit.mirror")
    assert importers("numpy") > {f"bioshare.circuit.{name}" for name in ("problem", "prepare", "run", "loop", "brian")}
    assert not importers("torch") & shared


@pytest.mark.parametrize("module", [*PURE, CHECKS])
def test_the_mathematics_imports_only_numpy_scipy_and_itself(module):
    allowed = ("numpy", "scipy", *PURE, CHECKS, *sys.stdlib_module_names)
    assert all(inside(name, *allowed) for name in IMPORTS[module])


def test_importing_bioshare_loads_neither_brian2_nor_torch():
    code = "import sys, bioshare; dir(bioshare); print(*{'brian2', 'torch'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_the_exact_engine_needs_torch_but_not_brian2_and_numba_only_for_a_sleep():
    code = (
        "import sys, bioshare; bioshare.Exact; print(*(name in sys.modules for name in ('torch', 'brian2', 'numba')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "False", "False"]


@pytest.mark.parametrize("name", ["bridge", "circuit", "explorer", "nn", "train"])
def test_every_part_is_an_attribute_without_an_import(name):
    """In a process of its own: an import anywhere else would set the attribute."""
    code = f"import bioshare; assert '{name}' in dir(bioshare); print(bioshare.{name}.__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"bioshare.{name}"


@pytest.mark.parametrize("stub", sorted(map(module_name, PACKAGE.rglob("*.pyi"))))
def test_every_public_name_leads_somewhere(stub):
    """In a process of its own: an import anywhere else would set names of modules."""
    code = f"import {stub} as package; print(*(name for name in package.__all__ if getattr(package, name) is not None))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == importlib.import_module(stub).__all__ != []


def test_an_unknown_name_is_refused():
    with pytest.raises(AttributeError, match="attribute sleepy"):
        _ = bioshare.sleepy
