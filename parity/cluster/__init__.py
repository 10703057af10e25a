"""Trials on Ray: the only package that imports it, and only once the environment is set."""
