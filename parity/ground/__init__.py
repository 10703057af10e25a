"""What every command needs: its errors, interruptions, temporary folders and exit status."""
