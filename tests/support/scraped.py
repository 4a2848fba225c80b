"""A scraped page, to be asked by name and labels."""

from __future__ import annotations

import re

Labels = frozenset[tuple[str, str]]
_SAMPLE = re.compile(r"^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? (\S+)$")
_LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\.)*)"')


class Page(dict[tuple[str, Labels], float]):
    """A scraped page."""

    def value(self, name: str, **labels: str) -> float:
        """The one sample with exactly these labels among others. KeyError when there is none or more than one."""
        found = self.values_of(name, **labels)
        if len(found) != 1:
            raise KeyError(f"{name}{labels}: {len(found)} samples")
        return found[0]

    def values_of(self, name: str, **labels: str) -> list[float]:
        """All samples that have these labels."""
        wanted = set(labels.items())
        return [value for (sample, have), value in self.items() if sample == name and wanted <= have]

    def sum(self, name: str, **labels: str) -> float:
        """Their sum."""
        return sum(self.values_of(name, **labels))

    def counters(self) -> dict[tuple[str, Labels], float]:
        """Every counter of ours."""
        return {key: value for key, value in self.items() if key[0].startswith("tpw_") and key[0].endswith("_total")}


def parse(text: str) -> Page:
    """A page in the text format."""
    page = Page()
    for line in text.splitlines():
        found = _SAMPLE.match(line)
        if found and not line.startswith("#"):
            name, labels, value = found.groups()
            page[name, frozenset(_LABEL.findall(labels or ""))] = float(value)
    return page
