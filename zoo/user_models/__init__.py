"""From a user's program, module or file to an entry, and the template of a new model file."""
