"""What a run finds, as frozen dataclasses, and the one codec that turns them into JSON and back."""

from alignjax.records.codec import decode, encode, read_record
from alignjax.records.figure import Figure

__all__ = ["Figure", "decode", "encode", "read_record"]
