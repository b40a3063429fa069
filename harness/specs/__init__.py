"""Reference semantics, one component a file: a float64 torch function that is the definition."""
