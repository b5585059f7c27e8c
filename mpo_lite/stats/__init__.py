"""Measures of a policy that do not depend on its reward."""
