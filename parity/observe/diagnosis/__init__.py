"""What is wrong with a gradient: the first rule that fits it."""
