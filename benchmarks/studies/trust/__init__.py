"""How often trust without a truth is right, on posteriors whose truth is known."""
