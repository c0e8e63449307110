"""The command that shows several studies in a browser: serve."""
