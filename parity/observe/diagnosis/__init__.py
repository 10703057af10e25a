"""What is wrong with a gradient: the rule that fits it."""
