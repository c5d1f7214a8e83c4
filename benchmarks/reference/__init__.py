"""Reference posteriors: finding, writing, checking, and coercing truths to one form."""
