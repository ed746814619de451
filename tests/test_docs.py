"""What the docs say exists, exists."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_links_and_files_named_in_the_docs_are_there() -> None:
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]:
        for target in re.findall(r"\]\(([^)#:]+?)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_config_keys_named_in_the_docs_are_keys() -> None:
    from azero.config import Config, known_keys

    sections = "|".join(Config.__dataclass_fields__)
    keys = set(known_keys())
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        for key in re.findall(rf"`((?:{sections})\.[a-z_]+)(?:[=:][^`]*)?`", page.read_text()):
            assert key in keys or key.endswith((".jsonl", ".json", ".yaml", ".html")), f"{page.name}: {key}"
