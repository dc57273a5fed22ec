"""Calls of Magic Hour's API: what they are, and how they are sent. Private."""
