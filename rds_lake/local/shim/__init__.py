"""The wire shim: lets PostgreSQL 18 stand in for Redshift, so that the production SQL runs unmodified on a laptop.

A TCP proxy between a client (psycopg2, redshift_connector, psql) and PostgreSQL. It rewrites what only Redshift has
(COPY from S3, distribution and sort keys, types), and refuses, with the reason, what only PostgreSQL has. Nothing
outside `rds_lake.local` knows that it is there. Start it with `python -m rds_lake.local.shim`.

The modules, from pure to not: `tokens` (SQL text to tokens), `redshift_copy` (one COPY statement), `ddl` (table
definitions), `refusals` (what Redshift lacks), `rewrite` (a whole message), `protocol` (frames of the wire),
`source` (objects in S3 to CSV), `session` (one connection), `__main__` (arguments and server).
"""
