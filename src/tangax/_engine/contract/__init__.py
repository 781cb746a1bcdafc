"""Contracting factors: orders, their costs, and how they run."""
