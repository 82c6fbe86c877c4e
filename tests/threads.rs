//! Threads that make lists: a process of its own, as how many there are holds for the process.
#![allow(clippy::unwrap_used)]

mod host;

use host::{bytes, check, insert, memory};
use rusqlite::types::Value;
use rusqlite::{Connection, params};

const DIMENSION: i64 = 512;

/// A vector near one of fifty directions.
fn vector(seed: i64) -> Vec<f32> {
    let numbers = |seed: i64| {
        let mut state = seed as u64 ^ 0x9E37_79B9_7F4A_7C15;
        (0..DIMENSION).map(move |_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040);
            (state >> 40) as f32 / (1 << 23) as f32 - 1.0
        })
    };
    numbers(seed).zip(numbers(seed % 50 + 1_000_003)).map(|(own, far)| own + 2.0 * far).collect()
}

fn add(connection: &Connection, rows: std::ops::Range<i64>) {
    let transaction = connection.unchecked_transaction().unwrap();
    insert(connection, rows.map(|it| (it, vector(it))));
    transaction.commit().unwrap();
}

/// All that the shadow tables hold.
fn held(connection: &Connection) -> Vec<Vec<Value>> {
    let mut held = Vec::new();
    for part in ["config", "lists", "codes", "blocks", "low", "rows"] {
        let mut all = connection.prepare(&format!("SELECT * FROM t_{part} ORDER BY 1")).unwrap();
        let columns = all.column_count();
        let rows = all.query_map([], |row| (0..columns).map(|at| row.get(at)).collect()).unwrap();
        held.extend(rows.map(|it| it.unwrap()));
    }
    held
}

#[test]
fn lists_are_the_same_whatever_the_threads() {
    for options in ["", ", metric = 'l2', storage = 'f16'", ", metric = 'dot', storage = 'int8'"] {
        let of = |threads: i64| {
            let connection = memory();
            let sql =
                format!("CREATE VIRTUAL TABLE t USING dualpath(dimensions = {DIMENSION}{options})");
            connection.execute_batch(&sql).unwrap();
            connection.query_row("SELECT dualpath_threads(?1)", [threads], |_| Ok(())).unwrap();
            // Each is enough for several threads: lists, rows for lists that are there, and learning anew.
            connection.execute("INSERT INTO t_config VALUES ('worth', 1000000)", []).unwrap();
            add(&connection, 0..5_000);
            add(&connection, 5_000..11_000);
            assert_eq!(check(&connection), "ok");
            // No two tables share it.
            connection.execute("DELETE FROM t_config WHERE key = 'identity'", []).unwrap();
            held(&connection)
        };
        let alone = of(1);
        assert!(alone.iter().any(|it| it[0] == Value::Text("learned".to_owned())), "{options}");
        // No more of it than says which.
        let first = |others: &[Vec<Value>]| alone.iter().zip(others).position(|(a, b)| a != b);
        let others = of(4);
        assert_eq!((alone.len(), None), (others.len(), first(&others)), "{options}");
    }
}

#[test]
fn a_row_is_found_that_threads_put_into_a_list() {
    let connection = memory();
    connection
        .execute_batch(&format!("CREATE VIRTUAL TABLE t USING dualpath(dimensions = {DIMENSION})"))
        .unwrap();
    add(&connection, 0..5_000);
    let sql = "SELECT rowid FROM t WHERE embedding MATCH ?1 ORDER BY distance LIMIT 1";
    for row in (0..5_000).step_by(97) {
        let to = bytes(&vector(row));
        let found: i64 = connection.query_row(sql, params![to], |row| row.get(0)).unwrap();
        assert_eq!(found, row);
    }
}
