"""What changes while the daemon runs: its configuration, the files of models, workers made anew by order."""
