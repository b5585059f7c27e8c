"""The evolving rubric as a service: any RL engine asks for rewards over HTTP, and one process owns the
rubric.
"""
