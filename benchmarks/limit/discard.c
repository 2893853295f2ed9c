/* The limit: a client that reads the rows of a table and discards them.
 *
 * discard text TABLE      the text protocol, mysql_use_result
 * discard binary TABLE    a prepared statement, the binary protocol
 *
 * The address is in BENCH_HOST, BENCH_PORT, BENCH_USER, BENCH_PASSWORD and BENCH_DATABASE. Prints the number of rows.
 */
#include <mysql.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static MYSQL *connection;

static void fail(const char *what, const char *why) {
    fprintf(stderr, "error: %s: %s\n", what, why);
    exit(1);
}

static unsigned long long text(const char *query) {
    if (mysql_query(connection, query)) fail("query", mysql_error(connection));
    MYSQL_RES *result = mysql_use_result(connection);
    if (!result) fail("result", mysql_error(connection));
    unsigned long long rows = 0;
    while (mysql_fetch_row(result)) rows++;
    if (mysql_errno(connection)) fail("fetch", mysql_error(connection));
    mysql_free_result(result);
    return rows;
}

static unsigned long long binary(const char *query) {
    MYSQL_STMT *statement = mysql_stmt_init(connection);
    if (mysql_stmt_prepare(statement, query, strlen(query))) fail("prepare", mysql_stmt_error(statement));
    if (mysql_stmt_execute(statement)) fail("execute", mysql_stmt_error(statement));
    unsigned long long rows = 0;
    int state;
    /* Without bound columns the library skips the values of a row. */
    while ((state = mysql_stmt_fetch(statement)) == 0 || state == MYSQL_DATA_TRUNCATED) rows++;
    if (state != MYSQL_NO_DATA) fail("fetch", mysql_stmt_error(statement));
    mysql_stmt_close(statement);
    return rows;
}

static const char *given(const char *name) {
    const char *value = getenv(name);
    if (!value) fail(name, "is not set");
    return value;
}

int main(int count, char **words) {
    char query[256];
    if (count < 3 || count > 4) fail("usage", "discard text|binary TABLE [CLAUSES]");
    snprintf(query, sizeof query, "SELECT * FROM `%s` %s", words[2], count > 3 ? words[3] : "");
    connection = mysql_init(NULL);
    if (!mysql_real_connect(connection, given("BENCH_HOST"), given("BENCH_USER"), given("BENCH_PASSWORD"),
                            given("BENCH_DATABASE"), (unsigned)atoi(given("BENCH_PORT")), NULL, 0))
        fail("connect", mysql_error(connection));
    printf("%llu\n", strcmp(words[1], "binary") ? text(query) : binary(query));
    mysql_close(connection);
    return 0;
}
