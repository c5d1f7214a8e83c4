"""Joint distances over all judged components, one file each."""
