"""From a posterior and a reference to scores, a verdict and a sentence."""
