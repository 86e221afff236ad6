"""One file per resource: prune, jobs, blobs, and meta (what the service says of itself)."""
