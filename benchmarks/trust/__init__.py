"""What can be said of a posterior beyond its own draws: wide climbs for modes that nobody started in."""
