"""From preference records to token batches: read, split, tokenize, batch; TFDS builders; embedded worlds."""
