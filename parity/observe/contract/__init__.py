"""The loss contract: what the baseline loss does on a few rows, the candidate must do as well."""
