"""The reference of an entry: finding it, earning it, its gates, and bringing truths to one form."""
