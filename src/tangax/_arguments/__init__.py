"""What a call is given: the sides of a kernel, and their checks."""
