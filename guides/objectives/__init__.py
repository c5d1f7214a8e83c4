"""What is maximized: bounds on the joint vector or per unit, and KL schedules."""
