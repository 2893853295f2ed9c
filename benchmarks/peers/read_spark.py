"""`read_spark TABLE FOLDER JAR`: Spark's JDBC source on local[2], the engine of Glue, into Parquet."""

import sys

import address
from pyspark.sql import SparkSession


def main() -> None:
    """Read and write."""
    table, folder, jar = sys.argv[1:]
    spark = SparkSession.builder.master("local[2]").config("spark.jars", jar).config("spark.ui.enabled", "false")
    session = spark.config("spark.driver.memory", "4g").getOrCreate()
    reader = session.read.format("jdbc").options(
        url=f"jdbc:mariadb://{address.part('host')}:{address.part('port')}/{address.part('database')}",
        driver="org.mariadb.jdbc.Driver",
        user=address.part("user"),
        password=address.part("password"),
        fetchsize="10000",
        sessionInitStatement="SET SESSION sql_mode='ANSI_QUOTES'",
        dbtable=table,
    )
    reader.load().write.mode("overwrite").option("compression", "zstd").parquet(folder)
    session.stop()


if __name__ == "__main__":
    main()
