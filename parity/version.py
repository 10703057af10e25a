"""The version of parity."""

# Declared here and not read from the package's metadata, since a Ray job runs parity from a folder, uninstalled.
__version__ = "0.1.0"
