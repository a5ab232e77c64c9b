"""Programs beside the library: measurements, inference over benchmarks, preparation of data."""
