"""The command line: one module per command; only what a command needs is imported."""
