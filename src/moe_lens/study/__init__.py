"""What a run is: spec, manifest, passes that resume, tables."""
