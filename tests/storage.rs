//! What is stored stays right: through random work, damage, a full disk, a killed process.
#![allow(clippy::unwrap_used)]

mod host;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use host::{bytes, check, nearest, open};
use rusqlite::{Connection, OpenFlags, params};

const DIMENSION: usize = 8;

/// A vector that a seed decides.
fn vector(seed: i64) -> Vec<f32> {
    let mut state = seed as u64 ^ 0x9E37_79B9_7F4A_7C15;
    let numbers: Vec<f32> = (0..DIMENSION)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888);
            (state >> 40) as f32 / (1 << 23) as f32 - 1.0
        })
        .collect();
    let length = numbers.iter().map(|it| it * it).sum::<f32>().sqrt();
    numbers.into_iter().map(|it| it / length).collect()
}

fn filled(database: &Path, rows: i64) -> Connection {
    let connection = open(database);
    connection
        .execute_batch(&format!("CREATE VIRTUAL TABLE t USING dualpath(dimensions = {DIMENSION})"))
        .unwrap();
    insert(&connection, 1..=rows).unwrap();
    connection
}

fn insert(connection: &Connection, rows: impl Iterator<Item = i64>) -> rusqlite::Result<()> {
    let transaction = connection.unchecked_transaction()?;
    for row in rows {
        transaction
            .prepare_cached("INSERT INTO t(rowid, embedding) VALUES (?1, ?2)")?
            .execute(params![row, bytes(&vector(row))])?;
    }
    transaction.commit()
}

fn count(connection: &Connection) -> i64 {
    connection.query_row("SELECT count(*) FROM t", [], |row| row.get(0)).unwrap()
}

/// The slow twin: every row's distance, sorted.
fn twin(rows: &BTreeMap<i64, Vec<f32>>, to: &[f32]) -> Vec<i64> {
    let distance = |row: &[f32]| {
        1.0 - row.iter().zip(to).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>()
    };
    let mut all: Vec<(f64, i64)> = rows.iter().map(|(id, row)| (distance(row), *id)).collect();
    all.sort_by(|a, b| a.partial_cmp(b).unwrap());
    all.into_iter().map(|it| it.1).collect()
}

#[test]
fn random_work_leaves_what_the_twin_has() {
    arbtest::arbtest(|random| {
        let connection = host::memory();
        connection
            .execute_batch(&format!(
                "CREATE VIRTUAL TABLE t USING dualpath(dimensions = {DIMENSION})"
            ))
            .unwrap();
        let (mut rows, mut saved) = (BTreeMap::new(), Vec::new());
        for _ in 0..random.int_in_range(1..=60)? {
            let (row, other) = (random.int_in_range(-40..=40)?, random.int_in_range(-40..=40)?);
            let content = vector(random.int_in_range(0..=1_000_000)?);
            let run = |sql: &str| connection.execute(sql, params![row, bytes(&content)]);
            match random.int_in_range(0..=9)? {
                0..=3 => {
                    let outcome = run("INSERT INTO t(rowid, embedding) VALUES (?1, ?2)");
                    assert_eq!(outcome.is_err(), rows.contains_key(&row));
                    rows.entry(row).or_insert(content);
                }
                4 => {
                    run("INSERT OR REPLACE INTO t(rowid, embedding) VALUES (?1, ?2)").unwrap();
                    rows.insert(row, content);
                }
                5 => {
                    connection.execute("DELETE FROM t WHERE rowid = ?1", [row]).unwrap();
                    rows.remove(&row);
                }
                6 => {
                    run("UPDATE t SET embedding = ?2 WHERE rowid = ?1").unwrap();
                    rows.entry(row).and_modify(|it| *it = content);
                }
                7 => {
                    let moved = connection
                        .execute("UPDATE t SET rowid = ?2 WHERE rowid = ?1", [row, other]);
                    let taken =
                        row != other && rows.contains_key(&row) && rows.contains_key(&other);
                    assert_eq!(moved.is_err(), taken);
                    if !taken && let Some(content) = rows.remove(&row) {
                        rows.insert(other, content);
                    }
                }
                8 => {
                    connection.execute_batch("SAVEPOINT s").unwrap();
                    saved.push(rows.clone());
                }
                _ => {
                    if let Some(before) = saved.pop() {
                        let back = random.arbitrary()?;
                        let sql = if back { "ROLLBACK TO s; RELEASE s" } else { "RELEASE s" };
                        connection.execute_batch(sql).unwrap();
                        if back {
                            rows = before;
                        }
                    }
                }
            }
        }
        let to = vector(7);
        let expected = twin(&rows, &to);
        let all = "SELECT rowid FROM t WHERE embedding MATCH ?1 ORDER BY distance";
        assert_eq!(nearest(&connection, &to, all).unwrap(), expected);
        let few = format!("{all} LIMIT 5 OFFSET 2");
        let part: Vec<i64> = expected.iter().copied().skip(2).take(5).collect();
        assert_eq!(nearest(&connection, &to, &few).unwrap(), part);
        assert_eq!(check(&connection), "ok");
        Ok(())
    })
    .budget_ms(4_000);
}

#[test]
fn rebuild_leaves_every_row_of_blocks_that_have_room() {
    let connection = host::memory();
    connection
        .execute_batch(&format!("CREATE VIRTUAL TABLE t USING dualpath(dimensions = {DIMENSION})"))
        .unwrap();
    insert(&connection, 1..=10_000).unwrap();
    let blocks = || -> Vec<i64> {
        let mut select = connection.prepare("SELECT count FROM t_blocks ORDER BY block").unwrap();
        select.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
    };
    let rebuilt = |expected: i64| {
        connection.execute_batch("INSERT INTO t(t) VALUES ('rebuild')").unwrap();
        assert_eq!((count(&connection), check(&connection).as_str()), (expected, "ok"));
    };
    // The last one has room, then all of them.
    rebuilt(10_000);
    connection.execute_batch("DELETE FROM t WHERE rowid % 3 = 0").unwrap();
    assert!(blocks().iter().all(|it| *it < 4_096), "{:?}", blocks());
    rebuilt(6_667);
    assert_eq!(blocks(), [4_096, 2_571]);
    let nearest = nearest(
        &connection,
        &vector(8),
        "SELECT rowid FROM t WHERE embedding MATCH ?1 ORDER BY distance LIMIT 1",
    );
    assert_eq!(nearest.unwrap(), [8]);
}

/// Each damage, what the check says of it, and whether searches can go on without those rows.
const DAMAGES: &[(&str, &str)] = &[
    ("UPDATE t_blocks SET count = 9999", "counts 9999 rows"),
    ("UPDATE t_blocks SET count = -1", "counts -1 rows"),
    ("UPDATE t_blocks SET count = 'x'", "counts 0 rows"),
    ("UPDATE t_blocks SET count = count - 1", "is in no block"),
    ("UPDATE t_blocks SET rowids = x'00'", "its rowids hold 0"),
    ("UPDATE t_blocks SET rowids = 'x'", "has no rowids"),
    ("UPDATE t_blocks SET rowids = zeroblob(length(rowids))", "is in two slots"),
    ("UPDATE t_blocks SET high = substr(high, 1, 100)", "the high plane of block 1 has 100 bytes"),
    ("UPDATE t_blocks SET high = zeroblob(length(high))", "length"),
    (
        "UPDATE t_blocks SET high = CAST(replace(hex(zeroblob(length(high) / 2)), '00', x'ffff') AS BLOB)",
        "holds",
    ),
    ("UPDATE t_blocks SET high = 7", "has no rowids or no high plane"),
    // Text that is no UTF-8.
    ("UPDATE t_blocks SET high = CAST(x'ff' AS TEXT)", "has no rowids or no high plane"),
    ("UPDATE t_low SET low = CAST(x'ff' AS TEXT)", "has no low plane"),
    ("DELETE FROM t_blocks", "the low plane of block 1 has no block"),
    ("UPDATE t_low SET low = x''", "the low plane of block 1 has 0 bytes"),
    ("DELETE FROM t_low", "has no low plane"),
    ("DELETE FROM t_rows WHERE rowid = 5", "row 5 is in slot 4 of block 1, but has no entry"),
    ("UPDATE t_rows SET place = place + 1 WHERE rowid = 5", "row 5 is in slot 4"),
    ("UPDATE t_rows SET place = -1 WHERE rowid = 5", "row 5 is in slot 4"),
    ("UPDATE t_rows SET place = 9223372036854775807 WHERE rowid = 5", "row 5 is in slot 4"),
    ("UPDATE t_rows SET place = 99 << 16 WHERE rowid = 5", "its entry says slot 0 of block 99"),
    ("INSERT INTO t_rows(rowid, place) VALUES (777, 1 << 16)", "row 777 is in no block"),
];

#[test]
fn damaged_shadow_tables_are_reported_and_harm_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let sound = folder.path().join("sound.db");
    drop(filled(&sound, 300));
    for (at, (damage, words)) in DAMAGES.iter().enumerate() {
        let database = folder.path().join(format!("{at}.db"));
        std::fs::copy(&sound, &database).unwrap();
        Connection::open(&database).unwrap().execute_batch(damage).unwrap();
        let connection = open(&database);
        let findings = check(&connection);
        assert!(findings.contains(words), "{damage}: {findings}");
        let refused =
            host::message(connection.execute("INSERT INTO t(t) VALUES ('integrity-check')", []));
        assert!(refused.contains(words), "{damage}: {refused}");
        // Whatever succeeds or fails, it fails with words and the connection goes on.
        let to = vector(5);
        for limit in ["LIMIT 3", "LIMIT -1"] {
            let sql =
                format!("SELECT rowid FROM t WHERE embedding MATCH ?1 ORDER BY distance {limit}");
            if let Err(err) = nearest(&connection, &to, &sql) {
                assert!(err.to_string().contains("is damaged"), "{damage}: {err}");
            }
        }
        for sql in [
            "SELECT embedding FROM t WHERE rowid = 5",
            "SELECT rowid FROM t WHERE embedding MATCH (SELECT embedding FROM t WHERE rowid = 6) AND rowid IN (4, 5, 6)",
            "UPDATE t SET embedding = (SELECT embedding FROM t WHERE rowid = 9) WHERE rowid = 5",
            "UPDATE t SET rowid = 1005 WHERE rowid = 5",
            "DELETE FROM t WHERE rowid = 5",
            "DELETE FROM t",
            "INSERT INTO t(embedding) VALUES (embed_from_json('[1,2,3,4,5,6,7,8]'))",
            "INSERT INTO t(t) VALUES ('optimize')",
        ] {
            if let Err(err) = connection.execute_batch(sql) {
                let words = err.to_string();
                assert!(words.contains("is damaged"), "{damage}: {sql}: {words}");
            }
            check(&connection);
        }
        let alive: i64 = connection.query_row("SELECT 1", [], |row| row.get(0)).unwrap();
        assert_eq!(alive, 1);
        connection.execute_batch("DROP TABLE t").unwrap();
    }
}

#[test]
fn a_config_that_makes_no_sense_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("t.db");
    drop(filled(&database, 3));
    for (damage, words) in [
        ("UPDATE t_config SET value = 9 WHERE key = 'format'", "the table has format 9"),
        (
            "UPDATE t_config SET value = 1 WHERE key = 'format'; UPDATE t_config SET value = 0 WHERE key = 'dimension'",
            "lacks 'format' or 'dimension'",
        ),
        (
            "UPDATE t_config SET value = 1e300 WHERE key = 'dimension'",
            "lacks 'format' or 'dimension'",
        ),
        ("DELETE FROM t_config", "lacks 'format' or 'dimension'"),
        ("DROP TABLE t_config", "t_config"),
    ] {
        let connection = open(&database);
        // Opened plainly, the shadow tables are tables.
        Connection::open(&database).unwrap().execute_batch(damage).unwrap();
        let refused = host::message(connection.prepare("SELECT * FROM t").map(|_| ()));
        assert!(refused.contains(words), "{damage}: {refused}");
    }
}

/// Bytes of the file flipped anywhere: SQLite or the table says so, nothing aborts.
#[test]
fn flipped_bytes_never_abort() {
    let folder = tempfile::tempdir().unwrap();
    let sound = folder.path().join("sound.db");
    drop(filled(&sound, 300));
    host::flipped(&sound, 150, |connection| {
        for sql in [
            "SELECT dualpath_check('t')",
            "SELECT count(*), sum(length(embedding)) FROM t",
            "SELECT count(*) FROM t WHERE embedding MATCH embed_from_json('[1,2,3,4,5,6,7,8]')",
            "DELETE FROM t WHERE rowid % 3 = 0",
            "INSERT INTO t(embedding) VALUES (embed_from_json('[1,2,3,4,5,6,7,8]'))",
        ] {
            // Either is right; what counts is that the process lives and the connection answers.
            let _ = connection.execute_batch(sql);
        }
        let alive: i64 = connection.query_row("SELECT 1", [], |row| row.get(0)).unwrap();
        assert_eq!(alive, 1);
    });
}

#[test]
fn a_full_disk_takes_the_statement_back() {
    let folder = tempfile::tempdir().unwrap();
    let connection = filled(&folder.path().join("t.db"), 100);
    let pages: i64 = connection.query_row("PRAGMA page_count", [], |row| row.get(0)).unwrap();
    connection
        .query_row(&format!("PRAGMA max_page_count = {}", pages + 2), [], |_| Ok(()))
        .unwrap();
    let full = insert(&connection, 101..=5_000);
    assert!(host::message(full).contains("full"));
    if !connection.is_autocommit() {
        connection.execute_batch("ROLLBACK").unwrap();
    }
    assert_eq!((count(&connection), check(&connection).as_str()), (100, "ok"));
    connection.query_row("PRAGMA max_page_count = 1000000", [], |_| Ok(())).unwrap();
    insert(&connection, 101..=5_000).unwrap();
    assert_eq!((count(&connection), check(&connection).as_str()), (5_000, "ok"));
}

#[test]
fn a_read_only_database_is_searched_and_not_written() {
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("t.db");
    drop(filled(&database, 20));
    let connection = host::loaded(
        Connection::open_with_flags(&database, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap(),
    );
    let sql = "SELECT rowid FROM t WHERE embedding MATCH ?1 ORDER BY distance LIMIT 1";
    assert_eq!(nearest(&connection, &vector(13), sql).unwrap(), [13]);
    assert_eq!(check(&connection), "ok");
    for sql in [
        "DELETE FROM t WHERE rowid = 1",
        "INSERT INTO t(embedding) VALUES (embed_from_json('[1,2,3,4,5,6,7,8]'))",
        "INSERT INTO t(t) VALUES ('optimize')",
        "CREATE VIRTUAL TABLE u USING dualpath(dimensions = 2)",
        "DROP TABLE t",
    ] {
        let outcome = connection.execute_batch(sql);
        if !(sql.contains("optimize") && outcome.is_ok()) {
            let refused = host::message(outcome);
            assert!(refused.contains("readonly"), "{sql}: {refused}");
        }
    }
    assert_eq!(count(&connection), 20);
}

const WRITER: &str = "DUALPATH_TEST_WRITER";
const ROWS_A_COMMIT: i64 = 50;

/// The process that [`a_killed_writer_leaves_whole_commits`] kills; alone it does nothing.
#[test]
fn writer() {
    let Ok(database) = std::env::var(WRITER) else {
        return;
    };
    let connection = open(Path::new(&database));
    for commit in count(&connection) / ROWS_A_COMMIT.. {
        let first = commit * ROWS_A_COMMIT + 1;
        insert(&connection, first..first + ROWS_A_COMMIT).unwrap();
        println!("committed {}", commit + 1);
    }
}

#[test]
fn a_killed_writer_leaves_whole_commits() {
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("t.db");
    drop(filled(&database, 0));
    for (round, mode) in ["delete", "wal", "delete", "wal", "wal", "delete"].iter().enumerate() {
        open(&database)
            .query_row(&format!("PRAGMA journal_mode = {mode}"), [], |_| Ok(()))
            .unwrap();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "writer", "--nocapture"])
            .env(WRITER, &database)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut said = 0;
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        for line in lines.map_while(Result::ok) {
            // The test runner writes its own words before the first of ours.
            if let Some((_, number)) = line.rsplit_once("committed ") {
                said = number.parse().unwrap();
            }
            if (round as i64 + 1) * 15 <= said {
                child.kill().unwrap();
                break;
            }
        }
        child.wait().unwrap();
        let connection = open(&database);
        assert_eq!(check(&connection), "ok");
        let rows = count(&connection);
        assert_eq!(rows % ROWS_A_COMMIT, 0);
        assert!(0 < said && said * ROWS_A_COMMIT <= rows, "{rows} rows, {said} commits");
        let sql = "SELECT rowid FROM t WHERE embedding MATCH ?1 ORDER BY distance LIMIT 1";
        assert_eq!(nearest(&connection, &vector(rows), sql).unwrap(), [rows]);
    }
}

#[test]
fn four_threads_write_and_search_one_file() {
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("t.db");
    let connection = filled(&database, 100);
    connection.query_row("PRAGMA journal_mode = wal", [], |_| Ok(())).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4_i64 {
            let database = &database;
            scope.spawn(move || {
                let connection = open(database);
                connection.busy_timeout(std::time::Duration::from_secs(60)).unwrap();
                let sql = "SELECT rowid FROM t WHERE embedding MATCH ?1 ORDER BY distance LIMIT 1";
                for turn in 0..20 {
                    let row = 1_000 * (thread + 1) + turn;
                    connection
                        .execute(
                            "INSERT INTO t(rowid, embedding) VALUES (?1, ?2)",
                            params![row, bytes(&vector(row))],
                        )
                        .unwrap();
                    assert_eq!(nearest(&connection, &vector(row), sql).unwrap(), [row]);
                }
            });
        }
    });
    assert_eq!((count(&connection), check(&connection).as_str()), (180, "ok"));
}
