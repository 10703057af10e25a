"""Are these training runs the same? If not: where do they part, how far, and is it rounding or a bug?"""
