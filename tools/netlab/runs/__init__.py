"""Scenarios, the matrix and chaos: programs and faults in a lab, and what came of them."""
