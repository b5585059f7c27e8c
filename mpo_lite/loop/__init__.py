"""What a run does between a batch of completions and the next rubric; no torch here."""
