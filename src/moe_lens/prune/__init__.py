"""From scores to a plan, from a plan to a simulation and to a smaller checkpoint."""
