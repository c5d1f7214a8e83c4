"""What builds the documentation site besides its pages: generated tables, the pictures, and a Sphinx extension."""
