"""How a section of the configuration is declared: a frozen dataclass, one field for each key.

A field carries its shape (what a value may be), its description and its default. Shapes are data: they parse the text of a
single value, and know neither YAML nor files. ``tpw.config`` reads a file into them and writes the JSON Schema and the
reference page from them, so a price or carbon source can declare its settings in its own file.
"""
