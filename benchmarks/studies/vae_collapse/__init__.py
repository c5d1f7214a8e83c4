"""What schedules of the KL do for a decoder that can ignore the code."""
