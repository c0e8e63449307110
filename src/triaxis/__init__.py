"""triaxis."""
