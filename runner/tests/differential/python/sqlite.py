import sqlite3
connection = sqlite3.connect("/sandbox/data.db")
connection.execute("create table t (n)")
connection.executemany("insert into t values (?)", [(n,) for n in range(10)])
print(connection.execute("select sum(n) from t").fetchone())
