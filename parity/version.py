"""The version of parity."""

# Here rather than in the metadata of a package: as a Ray job, parity runs from a folder without being installed.
__version__ = "0.1.0"
