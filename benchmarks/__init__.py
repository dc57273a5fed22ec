"""Measurements that docs/benchmarks.md reports; each is a program of its own."""
