"""Reading MySQL: types, fence, fingerprint, and a snapshot that streams rows as Arrow batches."""
