"""The lake: keys, objects, manifests, files, batches, the archive and the Glue catalog."""
