"""What asv follows over commits: costs that hang on no clock, and time. Made from the registry: a new file appears by itself."""
