"""Finds out by its content what a checkpoint is, and reads it."""

from pathlib import Path


def is_checkpoint(path: Path) -> bool:
    return False
