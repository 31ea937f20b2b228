"""The compiler passes, one a file. They see graphs and targets, never the runtime."""
