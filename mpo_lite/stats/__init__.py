"""Measuring a policy apart from its reward."""
