"""Judging: from a completion and a rubric to a verdict, or to the record that there is none."""
