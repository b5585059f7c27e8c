"""Clients of the reward service for the processes of other RL engines.

Modules here are light: they import neither the judge nor torch, and an engine only where it is used.
"""
