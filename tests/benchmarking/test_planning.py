"""Plans of the papers' recipes: the table in the documentation has all of them and is up to date."""

import pytest

from benchmarks.planning.recipes import OPTIONS, plan_recipe, recipes, row, rows_of_page

QUICK = "segmentation/fcn32s"


def test_the_table_has_every_recipe_of_the_papers() -> None:
    assert list(rows_of_page()) == recipes()
    assert OPTIONS.keys() <= set(recipes())


@pytest.mark.xdist_group("memory")  # up to 12 GB, which two processes must not take at the same time
@pytest.mark.parametrize(
    "name", [QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in recipes() if name != QUICK)]
)
def test_the_row_of_a_recipe_is_up_to_date(name: str) -> None:
    assert row(name, plan_recipe(name)) == rows_of_page()[name], "run python -m benchmarks plans --write"
