"""Files that land in S3: noticed, claimed, checked, loaded, recorded, moved."""
