"""How far a judge with a rubric may be trusted: agreement with labels, biases, known tricks."""
