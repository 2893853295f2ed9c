"""Files that land in S3: noticed, claimed, checked, loaded, recorded, moved.

In the order of a file's way: it is noticed (`events`, `listing`), claimed and taken from step to step (`machine`, with
`keeper`, `lease`, `work`), by a drop zone (`zone`, `agreed`) or a feed (`feed`), which read and judge it (`formats`,
`options`, `text`, `read`, `types`, `schema`, `check`), stage it (`stage`), and load it into Redshift (`order`,
`statements`, `load`) or PostgreSQL (`upsert`); then it is settled (`settle`). `version` says what a file is and where
it lies, `store` is the bucket, `spec` the YAML, `setup` makes queues and rules.
"""
