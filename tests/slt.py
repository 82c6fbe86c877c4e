"""Runs sql/*.slt in the SQLite of /usr/bin/python3 (pyenv's cannot load extensions).

    /usr/bin/python3 tests/slt.py target/debug/libdualpath.so
"""
import glob, os, sqlite3, sys, tempfile


def cell(value):
    if value is None:
        return "NULL"
    if isinstance(value, float):
        return f"{value:.3f}"
    if isinstance(value, bytes):
        return f"blob of {len(value)}"
    return str(value)


def main(library):
    passed = failed = 0
    for file in sorted(glob.glob(os.path.join(os.path.dirname(__file__), "..", "sql", "*.slt"))):
        with tempfile.TemporaryDirectory() as folder:
            def opened():
                connection = sqlite3.connect(os.path.join(folder, "test.db"), isolation_level=None)
                connection.enable_load_extension(True)
                connection.load_extension(os.path.abspath(library).removesuffix(".so"))
                return connection

            connections, current, line = {"main": opened()}, "main", 1
            for record in open(file, encoding="utf-8").read().split("\n\n"):
                at, line = f"{os.path.basename(file)}:{line}", line + record.count("\n") + 2
                lines = [it for it in record.splitlines() if not it.startswith("#")]
                if not lines:
                    continue
                head, body = lines[0], lines[1:]
                if head.startswith("connection "):
                    current = head.removeprefix("connection ")
                    if current not in connections:
                        connections[current] = opened()
                    continue
                split = body.index("----") if "----" in body else len(body)
                sql, expected = "\n".join(body[:split]), body[split + 1:]
                fault = None
                try:
                    if head == "query":
                        rows = ["|".join(map(cell, row)) for row in connections[current].execute(sql)]
                        if rows != expected:
                            fault = f"expected {expected}, got {rows}"
                    else:
                        for statement in statements(sql):
                            connections[current].execute(statement).fetchall()
                        if head != "statement ok":
                            fault = f"succeeded, expected: {head}"
                except sqlite3.Error as err:
                    words = head.removeprefix("statement error ")
                    if not head.startswith("statement error ") or words not in str(err):
                        fault = f"the error is: {err}"
                passed, failed = passed + (not fault), failed + bool(fault)
                if fault:
                    print(f"{at}: {fault}\n{sql}")
            for connection in connections.values():
                connection.close()
    print(f"SQLite {sqlite3.sqlite_version}, sql/*.slt")
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


def statements(sql):
    """One by one, so that an explicit transaction stays as the file has it."""
    part = ""
    for piece in sql.split(";"):
        part += piece + ";"
        if sqlite3.complete_statement(part):
            if part.strip(" \n;"):
                yield part
            part = ""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
