"""Patterns of recipes: by packaged name, as a file of the package, or the user's own files."""

from __future__ import annotations

from pathlib import Path

import pytest

from robustdml_ext.recipes import RecipeError, find_recipes, packaged_recipes, place_in_paper, read_recipe_file

TABLE_1 = [name for name in packaged_recipes() if name.startswith("mdprop/table1-")]


@pytest.mark.parametrize(
    "pattern",
    [
        "mdprop/table1*", "recipes/mdprop/table1*.yaml", "recipes/mdprop/table1*", "mdprop/table1*.yaml",
        "robustdml_ext/recipes/mdprop/table1*.yaml", "mdprop/table[1]-*",
    ],
)  # fmt: skip
def test_a_table_by_one_pattern_however_it_is_written(pattern: str) -> None:
    assert len(TABLE_1) == 20 and find_recipes([pattern]) == TABLE_1


def test_several_patterns_in_their_order_and_each_recipe_once() -> None:
    found = find_recipes(["mdprop/table3-sop-standard", "mdprop/table3*"])
    assert found[0] == "mdprop/table3-sop-standard" and len(found) == len(set(found)) == 4


def test_a_row_of_two_tables_is_found_by_either() -> None:
    rows = {"eat/table1-cub200-2010-mobilenetv2-eat", "eat/table3-cub200-2010-mobilenetv2-eat-nosplit"}
    assert set(find_recipes(["eat/table3*"])) == rows | {"eat/table3-cub200-2010-mobilenetv2-ensemble"}
    of_dropout = {name.removeprefix("ecaml/") for name in find_recipes(["recipes/ecaml/table2*.yaml"])}
    assert of_dropout == {
        "table3-cars196-binomial", "table3-cars196-ecaml-binomial", "table2-cars196-binomial-dropout-0.1",
        "table2-cars196-binomial-dropout-0.25", "table2-cars196-binomial-dropout-0.4",
    }  # fmt: skip


def test_own_files_by_path_or_pattern(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("b.yaml", "a.yml", "a.txt"):
        (tmp_path / name).write_text("recipe: {method: standard}\n")
    assert find_recipes([f"{tmp_path}/*.y*ml"]) == [f"{tmp_path}/a.yml", f"{tmp_path}/b.yaml"]
    assert find_recipes([f"{tmp_path}/a.txt"]) == [f"{tmp_path}/a.txt"]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipes" / "mdprop").mkdir(parents=True)
    own = tmp_path / "recipes" / "mdprop" / "table1-mine.yaml"
    own.write_text("recipe: {method: standard}\n")
    # A path of files that are there is these files; a name is the package's.
    assert find_recipes(["recipes/mdprop/table1*.yaml"]) == ["recipes/mdprop/table1-mine.yaml"]
    assert find_recipes(["mdprop/table1*"]) == TABLE_1
    assert read_recipe_file(find_recipes(["recipes/*/*.yaml"])[0]).fields == {"method": "standard"}


@pytest.mark.parametrize(
    ("pattern", "hint"),
    [
        ("mdprp/table1*", "did you mean mdprop/table1"),
        ("mdprop/tabel3*", "mdprop/table3"),
        ("recipes/eat/table11*.yaml", "did you mean eat/table1"),
        ("mdprop/sop-standard", "mdprop/table3-sop-standard"),
        ("qqqq", "which `list` names"),
    ],
)
def test_a_pattern_of_nothing_is_answered_with_what_is_near(pattern: str, hint: str) -> None:
    with pytest.raises(RecipeError, match="no recipe matches") as caught:
        find_recipes(["mdprop/table1*", pattern])
    assert hint in str(caught.value) and repr(pattern) in str(caught.value)


def test_no_pattern_is_refused() -> None:
    with pytest.raises(RecipeError, match="at least one"):
        find_recipes([])


def test_places_in_papers() -> None:
    assert place_in_paper("mdprop/table1-cub200-arcface-standard") == ("mdprop", "table1")
    assert place_in_paper("eat/figures2-3-cub200-2010-mobilenetv2-at") == ("eat", "figures2-3")
    assert place_in_paper("eat/figure4-cub200-2010-mobilenetv2-eat") == ("eat", "figure4")
    assert place_in_paper("prototypes/cub200") == ("prototypes", "")
    assert place_in_paper("somewhere/table1-mine.yaml") == ("", "")
