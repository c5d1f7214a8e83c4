"""The models of the house: one folder per kind, one module per entry, whose stem is the entry's name.

A module whose name begins with an underscore is no entry: it holds what the entries of its kind
share.
"""
