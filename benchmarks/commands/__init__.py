"""The work behind each `zoo` command; imported only when that command runs."""
