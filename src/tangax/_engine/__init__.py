"""The way of the data: program, evaluate, linearise, plan, kernel."""
