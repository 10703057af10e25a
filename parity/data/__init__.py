"""The data that ships with parity, and the readers of it."""
