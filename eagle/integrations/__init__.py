"""Plug-ins for engines that serve models: each in a folder of its own, and none is imported by anything here."""
