"""Log evidences of the entries by tempered SMC."""
