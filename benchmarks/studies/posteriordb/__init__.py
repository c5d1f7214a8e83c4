"""The studies of posteriordb: families over all its posteriors, and parity of our chains' draws."""
