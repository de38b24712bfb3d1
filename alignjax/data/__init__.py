"""Preference data: reading, cleaning, splitting, tokenizing and batching; TFDS builders; embedded worlds.

`buckets` and `files` are internal.
"""
