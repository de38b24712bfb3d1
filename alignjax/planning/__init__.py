"""Ahead-of-time answers: what a run's programs need on devices that are not here, and how long they take."""
