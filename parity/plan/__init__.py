"""What is asked for: options, devices, trials and the named lines. Standard library only."""
