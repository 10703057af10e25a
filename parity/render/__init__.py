"""What people see of a judgement."""
