"""What the daemon says about itself. ``logs``: one line per event, as text or JSON, on standard error."""
