"""The compiled program, the only contract between passes and runtime, and its file."""
