"""The machine under the numbers: memory, threads, files, and torch's modes around a call."""
