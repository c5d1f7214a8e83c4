"""Tools of the documentation site: generated tables, pictures, and a Sphinx extension."""
