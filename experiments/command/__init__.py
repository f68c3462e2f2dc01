"""The command line: its verbs, its options, the table of experiments."""
