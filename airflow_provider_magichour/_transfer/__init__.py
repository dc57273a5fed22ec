"""Bytes between Magic Hour and storage: streamed, resumed, verified, and named only when they are whole."""
