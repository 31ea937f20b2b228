"""The command line: one module a command, and the parts that all commands share."""
