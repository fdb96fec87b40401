"""Verification rules as printed in the papers."""
