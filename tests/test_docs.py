"""What the docs say exists, exists."""

import ast
import re
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).parent.parent


def test_links_and_files_named_in_the_docs_are_there() -> None:
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]:
        for target in re.findall(r"\]\(([^)#:]+?)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_source_files_named_in_the_docs_are_there() -> None:
    for page in [*ROOT.glob("*.md"), *sorted((ROOT / "docs").glob("*.md"))]:
        if page.name == "CHANGELOG.md":
            continue
        for path in re.findall(
            r"\b(?:azero|actors|learner|cluster|configs|benchmarks|tests)/[\w/.-]*\.[a-z]+\b", page.read_text()
        ):
            assert (ROOT / path).exists() or "*" in path, f"{page.name}: {path}"


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().split()) <= 900


def test_every_picture_is_shown_on_a_page_and_is_whole() -> None:
    pages = "".join(page.read_text() for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
    for picture in [*(ROOT / "docs").glob("*.svg"), *(ROOT / "docs").glob("*.png")]:
        assert picture.name in pages, picture.name
        if picture.suffix == ".svg":
            ElementTree.parse(picture)


def test_config_keys_named_in_the_docs_are_keys() -> None:
    from azero.config import Config
    from azero.config.overrides import known_keys

    sections = "|".join(Config.model_fields)
    keys = set(known_keys(Config))
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        for key in re.findall(rf"`((?:{sections})\.[a-z_]+)(?:[=:][^`]*)?`", page.read_text()):
            assert key in keys or key.endswith((".jsonl", ".json", ".yaml", ".html")), f"{page.name}: {key}"


def test_tests_and_code_named_in_the_docs_exist() -> None:
    """`path/file.py: symbol`, `tests/.../file.py::test_name`, and `::test_name` of the test file named before it."""
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        text, file = page.read_text(), ""
        named = re.findall(r"`([\w/]+\.py):\s+([\w.]+)`", text)
        for given, name in re.findall(r"`(tests/[\w/]+\.py)?::(\w+)`", text):
            file = given or file
            named.append((file, name))
        for path, name in named:
            assert (ROOT / path).is_file(), f"{page.name}: {path}"
            assert name in _names(ast.parse((ROOT / path).read_text()).body), f"{page.name}: {path}: {name}"


def _names(body: Sequence[ast.stmt], prefix: str = "") -> set[str]:
    """Functions, classes and variables defined in `body`; those of a class as Class.name."""
    found = set()
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(prefix + node.name)
        if isinstance(node, ast.ClassDef):
            found |= _names(node.body, f"{prefix}{node.name}.")
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        found |= {prefix + t.id for t in targets if isinstance(t, ast.Name)}
    return found
