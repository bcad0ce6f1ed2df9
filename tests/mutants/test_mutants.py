"""The list of mutants fits the code: each text to replace occurs exactly once, and each named test exists."""

import ast
from pathlib import Path

import pytest

from tests.mutants.mutants import MUTANTS, Mutant

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_fits_the_code(mutant: Mutant) -> None:
    assert (ROOT / mutant.file).read_text().count(mutant.find) == 1
    assert mutant.tests
    for node_id in mutant.tests:
        file, *_, function = node_id.partition("[")[0].split("::")
        functions = (node for node in ast.walk(ast.parse((ROOT / file).read_text())) if hasattr(node, "name"))
        assert function in {node.name for node in functions}, node_id
