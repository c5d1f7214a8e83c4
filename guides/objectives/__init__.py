"""What is maximized: bounds on the joint vector or on each unit, and schedules of the KL term."""
