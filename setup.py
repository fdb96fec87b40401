"""Packaging; metadata and dependencies live in pyproject.toml."""

from setuptools import setup

setup()
