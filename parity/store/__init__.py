"""Every column and every byte on disk, and the events that fill them. Loads neither torch nor Ray."""
