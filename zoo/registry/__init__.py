"""Find entries and other members by name, from our folders and from installed plug-ins.

`zoo.registry.entries` lists and loads entries; `zoo.registry.members` finds the records of
families, metrics, report sections and studies.
"""

from zoo.registry.entries import GROUP, EntryInfo, catalog, load, names, parse, require

__all__ = ["GROUP", "EntryInfo", "catalog", "load", "names", "parse", "require"]
