"""The built-in models: one folder per kind, one module per entry, named after the entry.

A module whose name begins with an underscore is no entry: it holds code that entries share.
"""
