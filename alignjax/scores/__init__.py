"""Where rewards and utilities come from, and how far they can be believed."""
