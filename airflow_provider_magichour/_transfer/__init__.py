"""Transfers files between Magic Hour and storage. A file gets its final name when it is complete."""
