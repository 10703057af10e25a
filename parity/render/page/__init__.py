"""report.html: one self-contained page, and the parts that it is made of."""
