"""The version, where every layer can read it; pyproject.toml holds the same one (a test compares them)."""

__version__ = "0.1.0"
