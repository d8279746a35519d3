"""The command ``vlprompt``: one command, one file; flags, printing and exit codes, no logic."""
