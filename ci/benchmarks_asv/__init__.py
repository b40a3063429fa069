"""What asv follows over commits: costs that hang on no clock, and time; made from the registry, so a new file appears by itself."""
