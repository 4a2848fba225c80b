"""Links of the pages on dashboards and alerts lead to files that exist."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
from grafana.render import dashboards
from grafana.rules import recorded, recording_groups
from grafana.values import Values

PAGES = ("dashboards.md", "alerts.md")
PICTURE_BYTES = 300_000


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files_that_exist(page: str, root: Path):
    text = (root / "docs" / page).read_text(encoding="utf-8")
    targets = re.findall(r"\]\(([^)#:\s]+)(?:#[\w-]*)?\)", text) + re.findall(r'(?:src|srcset)="([^"]+)"', text)
    assert targets
    missing = [target for target in targets if not (root / "docs" / target).exists()]
    assert missing == []


def test_every_dashboard_has_a_section_and_two_pictures(root: Path):
    text = (root / "docs" / "dashboards.md").read_text(encoding="utf-8")
    for uid in dashboards(Values()):
        name = uid.removeprefix("tpw-")
        assert re.search(rf"^## {name}$", text, flags=re.MULTILINE | re.IGNORECASE)
        for theme in ("dark", "light"):
            picture = root / "docs" / "pictures" / f"{name}-{theme}.png"
            assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
            assert picture.stat().st_size < PICTURE_BYTES
            assert f"pictures/{picture.name}" in text


def test_the_page_states_the_origin_of_the_pictures(root: Path):
    text = (root / "docs" / "dashboards.md").read_text(encoding="utf-8")
    assert "not by a Grafana\nserver" in text


def test_every_recorded_series_and_every_value_is_listed(root: Path):
    text = (root / "docs" / "alerts.md").read_text(encoding="utf-8")
    values = Values()
    names = [*recorded(recording_groups(values), values), *(field.name for field in dataclasses.fields(values))]
    assert [name for name in names if f"`{name}`" not in text] == []
