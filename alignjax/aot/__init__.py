"""A reader of programs compiled ahead of time: memory, FLOPs, bytes moved and a roofline estimate of each."""
