"""Rewards and utilities: implicit, learned or from a table, their calibration, and win rates from them."""
