"""What a run needs besides mathematics: devices and sharding, checkpoints, metrics."""
