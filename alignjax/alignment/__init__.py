"""Alignment: losses, relabelling, the optimizer, the one train step and the loop around it."""
