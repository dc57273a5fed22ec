"""Waiting for projects: when to check their status, and one poller for all waits on a connection. Private."""
