//! Every metric and storage keeps what the cosine of whole floats promises: the slow twin's answers.
#![allow(clippy::unwrap_used)]

mod host;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use host::{Tally, Work, bytes, check, likely_of, nearest, open, shared, stored};
use rusqlite::Connection;

const DIMENSION: usize = 12;
const METRICS: [&str; 3] = ["cosine", "dot", "l2"];
const STORAGES: [&str; 3] = ["f32", "f16", "int8"];

/// A vector near one of twenty, as a seed decides, longer or shorter and away from the origin.
fn vector(seed: i64) -> Vec<f32> {
    let numbers = |seed: u64, scale: f32| {
        let mut state = seed ^ 0x9E37_79B9_7F4A_7C15;
        (0..DIMENSION)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040);
                scale * ((state >> 40) as f32 / (1 << 23) as f32 - 1.0)
            })
            .collect::<Vec<f32>>()
    };
    let (own, centre) = (numbers(seed as u64, 0.4), numbers(seed as u64 % 20 + 1_000_003, 1.0));
    let size = 3.0 + (seed % 11) as f32;
    own.iter().zip(centre).map(|(a, b)| size * (a + b) + 4.0).collect()
}

fn made(connection: &Connection, metric: &str, storage: &str) {
    let options = format!("dimensions = {DIMENSION}, metric = '{metric}', storage = '{storage}'");
    // Where lists begin to pay in these tests: 64 rows of an f32 table, more of others.
    let worth = 64 * 2 * DIMENSION;
    connection
        // Small pages are filled by few rows of a list, large ones by none of these tests.
        .execute_batch(&format!(
            "PRAGMA page_size = {};
             CREATE VIRTUAL TABLE t USING dualpath({options});
             INSERT INTO t_config(key, value) VALUES ('worth', {worth})",
            if metric == "dot" { 512 } else { 4096 },
        ))
        .unwrap();
}

fn insert(connection: &Connection, rows: impl Iterator<Item = i64>) {
    host::insert(connection, rows.map(|it| (it, vector(it))));
}

fn filled(database: &Path, metric: &str, storage: &str, rows: i64) -> Connection {
    let connection = open(database);
    made(&connection, metric, storage);
    let transaction = connection.unchecked_transaction().unwrap();
    insert(&connection, 1..=rows);
    transaction.commit().unwrap();
    connection
}

fn number(connection: &Connection, sql: &str) -> i64 {
    connection.query_row(sql, [], |row| row.get(0)).unwrap()
}

fn length(vector: &[f32]) -> f64 {
    vector.iter().map(|it| f64::from(*it).powi(2)).sum::<f64>().sqrt()
}

fn held_against_given(
    stored: &BTreeMap<i64, Vec<f32>>,
    given: &BTreeMap<i64, Vec<f32>>,
    metric: &str,
    storage: &str,
) {
    assert!(stored.keys().eq(given.keys()));
    for (rowid, kept) in stored {
        let given = &given[rowid];
        let scale = if metric == "cosine" { 1.0 / length(given) } else { 1.0 };
        let most = given.iter().fold(0.0f64, |most, it| most.max(f64::from(it.abs()) * scale));
        let off = match storage {
            "f32" => most * 1e-6,
            "f16" => most / 1e3,
            _ => most / 60.0,
        };
        for (kept, given) in kept.iter().zip(given) {
            let given = f64::from(*given) * scale;
            assert!((f64::from(*kept) - given).abs() <= off, "{rowid}: {kept} {given}");
        }
    }
}

fn distance(metric: &str, row: &[f32], to: &[f32]) -> f64 {
    let pairs = || row.iter().zip(to).map(|(a, b)| (f64::from(*a), f64::from(*b)));
    match metric {
        "l2" => pairs().map(|(a, b)| (a - b).powi(2)).sum::<f64>().sqrt(),
        "dot" => -pairs().map(|(a, b)| a * b).sum::<f64>(),
        // As the table has it: the query's direction in float32.
        _ => {
            let length = length(to);
            let unit = |it: f64| f64::from((it / length) as f32);
            (1.0 - pairs().map(|(a, b)| a * unit(b)).sum::<f64>()).clamp(0.0, 2.0)
        }
    }
}

/// The slow twin: every row's distance, sorted.
fn twin(rows: &BTreeMap<i64, Vec<f32>>, metric: &str, to: &[f32]) -> Vec<(f64, i64)> {
    let mut all: Vec<(f64, i64)> =
        rows.iter().map(|(id, row)| (distance(metric, row, to), *id)).collect();
    all.sort_by(|a, b| a.partial_cmp(b).unwrap());
    all
}

fn rowids(answers: &[(f64, i64)]) -> Vec<i64> {
    answers.iter().map(|it| it.1).collect()
}

#[test]
fn random_work_keeps_what_the_twin_has() {
    for metric in METRICS {
        for storage in STORAGES {
            let tally = Tally::of(1_500, |tally, random| {
                let folder = tempfile::tempdir().unwrap();
                let database = folder.path().join("t.db");
                let mut connection = filled(&database, metric, storage, 0);
                let mut work = Work::new(vector);
                for _ in 0..random.int_in_range(1..=30)? {
                    if !work.is_done(&mut connection, &database, random)? {
                        let to = vector(random.int_in_range(0..=100_000)?);
                        let expected = rowids(&twin(&stored(&connection), metric, &to));
                        let expected = &expected[..expected.len().min(5)];
                        tally.found += likely_of(&connection, &to, expected);
                        tally.wanted += expected.len();
                    }
                }
                assert_eq!(check(&connection), "ok");
                let lists = "SELECT count(*) FROM t_config WHERE key = 'bits'";
                tally.listed += number(&connection, lists);
                let kept = stored(&connection);
                held_against_given(&kept, &work.rows, metric, storage);
                let to = vector(7);
                let all =
                    "SELECT rowid FROM t WHERE embedding MATCH ?1 AND recall = 1 ORDER BY distance";
                let expected = rowids(&twin(&kept, metric, &to));
                assert_eq!(nearest(&connection, &to, all).unwrap(), expected);
                Ok(())
            });
            assert!(tally.keeps_the_recall(), "{metric}, {storage}: {tally:?}");
        }
    }
}

#[test]
fn filters_and_distances_are_those_of_the_twin() {
    let folder = tempfile::tempdir().unwrap();
    for (at, (metric, storage)) in
        METRICS.iter().flat_map(|it| STORAGES.map(|storage| (*it, storage))).enumerate()
    {
        let database = folder.path().join(format!("{at}.db"));
        let connection = filled(&database, metric, storage, 2_000);
        connection.execute_batch("INSERT INTO t(t) VALUES ('optimize')").unwrap();
        assert!(10 < number(&connection, "SELECT count(*) FROM t_lists"));
        let rows = stored(&connection);
        let (mut found, mut wanted) = (0, 0);
        for seed in 0..12 {
            let to = vector(50_000 + 31 * seed);
            let all = twin(&rows, metric, &to);
            let sql = "SELECT rowid, distance FROM t WHERE embedding MATCH ?1 AND recall = 1 ORDER BY distance LIMIT 20";
            let mut statement = connection.prepare_cached(sql).unwrap();
            let answers = statement.query_map([bytes(&to)], |row| Ok((row.get(1)?, row.get(0)?)));
            let answers: Vec<(f64, i64)> = answers.unwrap().map(Result::unwrap).collect();
            for (answer, expected) in answers.iter().zip(&all) {
                assert!((answer.0 - expected.0).abs() <= 1e-9 * (1.0 + expected.0.abs()));
            }
            // Between two rows, so that the last digit of a distance does not matter.
            let (inner, outer) = ((all[3].0 + all[4].0) / 2.0, (all[30].0 + all[31].0) / 2.0);
            let some: BTreeSet<i64> = rows.keys().copied().filter(|it| it % 3 == 1).collect();
            for (filter, expected) in [
                (format!("recall = 1 AND distance < {outer}"), all[..31].to_vec()),
                (format!("distance > {inner} AND k = 9"), all[4..13].to_vec()),
                (
                    "recall = 1 AND rowid IN (SELECT rowid FROM t WHERE rowid % 3 = 1) AND k = 9"
                        .to_owned(),
                    all.iter().filter(|it| some.contains(&it.1)).take(9).copied().collect(),
                ),
                (
                    "rowid IN (5, 600, 1999)".to_owned(),
                    all.iter().filter(|it| [5, 600, 1999].contains(&it.1)).copied().collect(),
                ),
                (
                    "recall = 1 AND rowid BETWEEN 100 AND 1500 AND k = 7".to_owned(),
                    all.iter().filter(|it| (100..=1500).contains(&it.1)).take(7).copied().collect(),
                ),
            ] {
                let sql = format!(
                    "SELECT rowid FROM t WHERE embedding MATCH ?1 AND {filter} ORDER BY distance"
                );
                let answers = nearest(&connection, &to, &sql).unwrap();
                assert_eq!(answers, rowids(&expected), "{metric}, {storage}: {filter}");
            }
            let sql = "SELECT rowid FROM t WHERE embedding MATCH ?1 ORDER BY distance LIMIT 10";
            let likely = nearest(&connection, &to, sql).unwrap();
            found += all[..10].iter().filter(|it| likely.contains(&it.1)).count();
            wanted += 10;
        }
        assert!(97 * wanted <= 100 * found, "{metric}, {storage}: {found} of {wanted}");
    }
}

/// A query far shorter or longer than rows, in another direction, or of no length at all.
#[test]
fn queries_of_any_length_are_answered() {
    for metric in ["dot", "l2"] {
        for storage in STORAGES {
            let connection = host::memory();
            made(&connection, metric, storage);
            insert(&connection, 1..=500);
            connection
                .execute("INSERT INTO t(rowid, embedding) VALUES (501, zeroblob(48))", [])
                .unwrap();
            connection.execute_batch("INSERT INTO t(t) VALUES ('optimize')").unwrap();
            let rows = stored(&connection);
            assert_eq!(rows[&501], [0.0; DIMENSION]);
            let factors = [0.0, 1e-30, 1e-3, -1.0, 1e3, 1e13];
            for (factor, seed) in factors.into_iter().zip(40..) {
                let to: Vec<f32> = vector(seed).iter().map(|it| factor * it).collect();
                let sql = "SELECT rowid FROM t WHERE embedding MATCH ?1 AND recall = 1 ORDER BY distance LIMIT 9";
                let expected = rowids(&twin(&rows, metric, &to)[..9]);
                assert_eq!(nearest(&connection, &to, sql).unwrap(), expected, "{metric} {factor}");
            }
            assert_eq!(check(&connection), "ok");
        }
    }
}

#[test]
fn what_no_table_takes_is_refused() {
    let connection = host::memory();
    for (options, words) in [
        (
            "dimensions = 2, metric = 'euclid'",
            "metric is 'euclid' (one of 'cosine', 'dot' or 'l2')",
        ),
        ("dimensions = 2, storage = 'f8'", "storage is 'f8' (one of 'f32', 'f16' or 'int8')"),
        ("metric = 'l2'", "metric is 'l2', but embeddings of a model are compared by 'cosine'"),
        ("text = 'a', content = 'b', metric = 'dot'", "compared by 'cosine'"),
    ] {
        let sql = format!("CREATE VIRTUAL TABLE t USING dualpath({options})");
        let refused = host::message(connection.execute_batch(&sql));
        assert!(refused.contains(words), "{refused}");
    }
    for metric in METRICS {
        for storage in STORAGES {
            let name = format!("{metric}_{storage}");
            let sql = format!(
                "CREATE VIRTUAL TABLE {name} USING dualpath(dimensions = 2, metric = {metric}, storage = {storage});
                 INSERT INTO {name}(embedding) VALUES (embed_from_json('[1, 2]', '{metric}'))"
            );
            connection.execute_batch(&sql).unwrap();
            for (numbers, words) in [
                (&[1.0, f32::NAN][..], "NaN at dimension 1"),
                (&[f32::INFINITY, 0.0], "inf at dimension 0"),
                (&[1.0, 2.0, 3.0], "3 dimensions, expected 2"),
                (&[0.0, 0.0], "all zeros"),
                (&[3e38, 1.0], "at most 1e15"),
            ] {
                let is_fine = match words {
                    "all zeros" => metric != "cosine",
                    "at most 1e15" => metric == "cosine",
                    _ => false,
                };
                let insert = format!("INSERT INTO {name}(embedding) VALUES (?1)");
                let search = format!("SELECT rowid FROM {name} WHERE embedding MATCH ?1");
                let inserted = connection.execute(&insert, [bytes(numbers)]).map(|_| ());
                let searched = nearest(&connection, numbers, &search).map(|_| ());
                for outcome in [inserted, searched] {
                    match is_fine {
                        true => outcome.unwrap(),
                        false => {
                            let refused = host::message(outcome);
                            assert!(refused.contains(words), "{name}: {refused}");
                        }
                    }
                }
            }
        }
    }
}

/// Each damage, of which table, and what the check says of it.
const DAMAGES: &[(&str, &str, &str, &str)] = &[
    (
        "l2",
        "f32",
        "UPDATE t_config SET value = x'00' WHERE key = 'origin'",
        "'origin' is no vector",
    ),
    (
        "l2",
        "f32",
        "UPDATE t_config SET value = x'0000c07f' WHERE key = 'origin'",
        "'origin' is no vector",
    ),
    ("l2", "f32", "UPDATE t_config SET value = 7 WHERE key = 'origin'", "'origin' is no vector"),
    ("l2", "f32", "DELETE FROM t_config WHERE key = 'origin'", "'origin' is no vector"),
    (
        "l2",
        "f16",
        "UPDATE t_config SET value = zeroblob(48) WHERE key = 'origin'",
        "the codes of block",
    ),
    (
        "l2",
        "f32",
        "UPDATE t_lists SET centre = zeroblob(24) WHERE list = 2",
        "the centre of list 2",
    ),
    ("dot", "int8", "UPDATE t_lists SET spread = -1 WHERE list = 2", "the spread of list 2"),
    ("dot", "int8", "UPDATE t_lists SET spread = 9e99 WHERE list = 2", "the spread of list 2"),
    (
        "dot",
        "f32",
        "UPDATE t_codes SET codes = CAST(substr(codes, 2) || x'00' AS BLOB)",
        "the codes of block",
    ),
    ("l2", "f16", "UPDATE t_blocks SET high = zeroblob(length(high) - 1)", "bytes behind them"),
    (
        "l2",
        "f16",
        "UPDATE t_blocks SET high = CAST(x'0000c07f' || substr(high, 5) AS BLOB)",
        "holds NaN",
    ),
    (
        "l2",
        "f16",
        "UPDATE t_blocks SET high = CAST(x'01000041' || substr(high, 5) AS BLOB)",
        "no vector is written so in f16",
    ),
    (
        "dot",
        "int8",
        "UPDATE t_blocks SET high = CAST(x'01000041' || substr(high, 5) AS BLOB)",
        "no vector is written so in int8",
    ),
    (
        "dot",
        "int8",
        "UPDATE t_blocks SET high = CAST(x'0000ad60' || substr(high, 5) AS BLOB)",
        "at most 1e15",
    ),
    (
        "cosine",
        "int8",
        "UPDATE t_blocks SET high = CAST(x'0000003f' || substr(high, 5) AS BLOB)",
        "expected 1",
    ),
    ("cosine", "f16", "UPDATE t_blocks SET high = zeroblob(length(high))", "all zeros"),
    (
        "cosine",
        "f16",
        "INSERT INTO t_low(block, low) SELECT block, x'00' FROM t_blocks",
        "has a low plane",
    ),
    (
        "cosine",
        "int8",
        "INSERT INTO t_low(block, low) VALUES (999, x'00')",
        "of block 999 has no block",
    ),
];

#[test]
fn damage_is_found_and_harms_nobody() {
    let folder = tempfile::tempdir().unwrap();
    for (at, (metric, storage, damage, words)) in DAMAGES.iter().enumerate() {
        let database = folder.path().join(format!("{at}.db"));
        filled(&database, metric, storage, 400)
            .execute_batch("INSERT INTO t(t) VALUES ('optimize')")
            .unwrap();
        Connection::open(&database).unwrap().execute_batch(damage).unwrap();
        let connection = open(&database);
        let findings = check(&connection);
        assert!(findings.contains(words), "{damage}: {findings}");
        for recall in ["1", "0.9"] {
            let sql = format!(
                "SELECT rowid FROM t WHERE embedding MATCH ?1 AND recall = {recall} ORDER BY distance LIMIT 300"
            );
            if let Err(err) = nearest(&connection, &vector(5), &sql) {
                assert!(err.to_string().contains("is damaged"), "{damage}: {err}");
            }
        }
        for sql in [
            "DELETE FROM t WHERE rowid = 5",
            "UPDATE t SET embedding = zeroblob(48) WHERE rowid = 6",
            "INSERT INTO t(rowid, embedding) SELECT rowid + 1000, embedding FROM t",
            "INSERT INTO t(t) VALUES ('optimize')",
        ] {
            if let Err(err) = connection.execute_batch(sql) {
                let words = err.to_string();
                let refused = words.contains("is damaged") || words.contains("all zeros");
                assert!(refused, "{damage}: {sql}: {words}");
            }
            check(&connection);
        }
        // What is left of the vectors is whole again.
        if !damage.contains("high") {
            connection.execute_batch("INSERT INTO t(t) VALUES ('rebuild')").unwrap();
            assert_eq!(check(&connection), "ok", "{damage}");
        }
    }
    let database = folder.path().join("config.db");
    drop(filled(&database, "l2", "f16", 3));
    for (damage, words) in [
        ("UPDATE t_config SET value = 'euclid' WHERE key = 'metric'", "metric is 'euclid'"),
        ("DELETE FROM t_config WHERE key = 'metric'", "it lacks 'metric'"),
        (
            "INSERT INTO t_config(key, value) VALUES ('metric', 'l2');
             UPDATE t_config SET value = 16 WHERE key = 'storage'",
            "it lacks 'storage'",
        ),
        ("UPDATE t_config SET value = 'f8' WHERE key = 'storage'", "storage is 'f8'"),
    ] {
        Connection::open(&database).unwrap().execute_batch(damage).unwrap();
        let refused = host::message(open(&database).prepare("SELECT * FROM t").map(|_| ()));
        assert!(refused.contains(words) && refused.contains("is damaged"), "{refused}");
    }
}

#[test]
fn flipped_bytes_never_abort() {
    let folder = tempfile::tempdir().unwrap();
    for (metric, storage) in [("l2", "f16"), ("dot", "int8"), ("l2", "f32"), ("cosine", "int8")] {
        let sound = folder.path().join(format!("{metric}-{storage}.db"));
        filled(&sound, metric, storage, 400)
            .execute_batch("INSERT INTO t(t) VALUES ('optimize')")
            .unwrap();
        host::flipped(&sound, 30, |connection| {
            for recall in ["1", "0.9"] {
                let sql = format!(
                    "SELECT rowid FROM t WHERE embedding MATCH ?1 AND recall = {recall} ORDER BY distance LIMIT 5"
                );
                let _ = nearest(connection, &vector(9), &sql);
            }
            for sql in [
                "SELECT dualpath_check('t')",
                "DELETE FROM t WHERE rowid % 3 = 0",
                "INSERT INTO t(t) VALUES ('optimize')",
                "INSERT INTO t(t) VALUES ('rebuild')",
            ] {
                // Either is right; what counts is that the process lives and the connection answers.
                let _ = connection.execute_batch(sql);
            }
            assert_eq!(number(connection, "SELECT 1"), 1);
        });
    }
}

/// Files that versions wrote whose lists have planes, the first of which knew neither metric nor storage, or whose rows
/// have an entry each; they stay files for those versions until they are rebuilt.
#[test]
fn databases_of_formats_4_to_7_open() {
    let folder = tempfile::tempdir().unwrap();
    for (format, metric) in [(4, "cosine"), (6, "l2"), (7, "cosine")] {
        let database = folder.path().join(format!("{format}.db"));
        let old = format!("tests/databases/format-{format}.db");
        std::fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join(old), &database).unwrap();
        let connection = open(&database);
        assert_eq!(check(&connection), "ok");
        for (work, expected) in [
            ("SELECT 1", format),
            ("DELETE FROM t WHERE rowid = 300", format),
            (
                "UPDATE t SET embedding = (SELECT embedding FROM t WHERE rowid = 9) WHERE rowid = 200",
                format,
            ),
            ("INSERT INTO t(t) VALUES ('optimize')", format),
            ("INSERT INTO t(t) VALUES ('rebuild')", 8),
            ("DELETE FROM t WHERE rowid = 301", 8),
        ] {
            connection.execute_batch(work).unwrap();
            assert_eq!(check(&connection), "ok");
            let known = number(&connection, "SELECT value FROM t_config WHERE key = 'format'");
            assert_eq!(known, expected);
            let rows = stored(&connection);
            for seed in 0..20 {
                let to = vector(seed);
                let expected = rowids(&twin(&rows, metric, &to)[..5]);
                let exact = "SELECT rowid FROM t WHERE embedding MATCH ?1 AND recall = 1 ORDER BY distance LIMIT 5";
                assert_eq!(nearest(&connection, &to, exact).unwrap(), expected);
                let likely = exact.replace("recall = 1", "recall = 0.99");
                assert!(4 <= shared(&nearest(&connection, &to, &likely).unwrap(), &expected));
            }
        }
    }
}

#[test]
fn the_formats_of_tables_are_as_written() {
    let format = |options: &str, rows: i64| {
        let connection = host::memory();
        let sql =
            format!("CREATE VIRTUAL TABLE t USING dualpath(dimensions = {DIMENSION}{options})");
        connection.execute_batch(&sql).unwrap();
        connection
            .execute_batch("INSERT INTO t_config(key, value) VALUES ('worth', 1000)")
            .unwrap();
        insert(&connection, 1..=rows);
        number(&connection, "SELECT value FROM t_config WHERE key = 'format'")
    };
    for (options, plain) in [
        ("", true),
        (", metric = cosine, storage = f32", true),
        (", metric = dot", false),
        (", storage = int8", false),
    ] {
        let expected = if plain { (1, 8) } else { (5, 8) };
        assert_eq!((format(options, 3), format(options, 200)), expected, "{options}");
    }
}
