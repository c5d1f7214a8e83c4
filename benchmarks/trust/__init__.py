"""Trust in a posterior beyond its own draws: wide climbs for modes nobody started in."""
