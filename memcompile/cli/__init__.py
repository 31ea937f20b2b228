"""The command line: one module a command, and what all commands share."""
