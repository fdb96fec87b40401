"""The version of all packages of this repository."""

__version__ = "0.2.0"
