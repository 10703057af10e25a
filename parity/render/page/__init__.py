"""report.html: one self-contained page, and the figures in it."""
