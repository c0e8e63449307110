"""How the families `tiny` and `small` were made: networks whose weights are all trained, and on what."""
