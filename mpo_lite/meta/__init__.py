"""The meta step: from judged rollouts to the next rubric."""
