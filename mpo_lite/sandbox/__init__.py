"""The embedded default: a tiny policy, a simulated judge and meta-judge, and a gold function.

No keys, no GPU, no network. It demonstrates the mechanism and drives the end-to-end tests; it is no
evidence about real judges. Only ``policy`` imports torch; nothing here is imported by the rest of the
package at start-up.
"""
