//! The approximate index: what it promises it keeps, through random work, damage and rollbacks.
#![allow(clippy::unwrap_used)]

mod host;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use half::f16;
use host::{Tally, Work, bytes, check, likely_of, nearest, open, shared, stored};
use rusqlite::{Connection, params};

const DIMENSION: usize = 12;
/// Where lists begin to pay in these tests: 64 rows.
const WORTH: usize = 64 * 2 * DIMENSION;

/// A unit vector near one of twenty directions, as a seed decides.
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
    let sum: Vec<f32> = own.iter().zip(centre).map(|(a, b)| a + b).collect();
    let length = sum.iter().map(|it| it * it).sum::<f32>().sqrt();
    sum.into_iter().map(|it| it / length).collect()
}

fn made(connection: &Connection) {
    connection
        // Pages so small that few rows of a list fill one.
        .execute_batch(&format!(
            "PRAGMA page_size = 512;
             CREATE VIRTUAL TABLE t USING dualpath(dimensions = {DIMENSION});
             INSERT INTO t_config(key, value) VALUES ('worth', {WORTH})"
        ))
        .unwrap();
}

fn insert(connection: &Connection, rows: impl Iterator<Item = i64>) {
    host::insert(connection, rows.map(|it| (it, vector(it))));
}

fn filled(database: &Path, rows: i64) -> Connection {
    let connection = open(database);
    made(&connection);
    let transaction = connection.unchecked_transaction().unwrap();
    insert(&connection, 1..=rows);
    transaction.commit().unwrap();
    connection
}

fn number(connection: &Connection, sql: &str) -> i64 {
    connection.query_row(sql, [], |row| row.get(0)).unwrap()
}

/// The slow twin: every row's distance, sorted.
fn twin<'a>(rows: impl Iterator<Item = (i64, &'a Vec<f32>)>, to: &[f32]) -> Vec<i64> {
    let distance = |row: &[f32]| {
        let cosine = row.iter().zip(to).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
        (1.0 - cosine).clamp(0.0, 2.0)
    };
    let mut all: Vec<(f64, i64)> = rows.map(|(id, row)| (distance(row), id)).collect();
    all.sort_by(|a, b| a.partial_cmp(b).unwrap());
    all.into_iter().map(|it| it.1).collect()
}

#[test]
fn random_work_keeps_the_promised_recall() {
    let tally = Tally::of(8_000, |tally, random| {
        let folder = tempfile::tempdir().unwrap();
        let database = folder.path().join("t.db");
        let mut connection = filled(&database, 0);
        let mut work = Work::new(vector);
        for _ in 0..random.int_in_range(1..=40)? {
            if !work.is_done(&mut connection, &database, random)? {
                let to = vector(random.int_in_range(0..=100_000)?);
                let expected = twin(work.rows.iter().map(|it| (*it.0, it.1)), &to);
                let expected = &expected[..expected.len().min(5)];
                tally.found += likely_of(&connection, &to, expected);
                tally.wanted += expected.len();
            }
        }
        assert_eq!(check(&connection), "ok");
        let lists = "SELECT count(*) FROM t_config WHERE key = 'bits'";
        tally.listed += number(&connection, lists);
        let to = vector(7);
        let expected = twin(work.rows.iter().map(|it| (*it.0, it.1)), &to);
        let all = "SELECT rowid FROM t WHERE embedding MATCH ?1 AND recall = 1 ORDER BY distance";
        assert_eq!(nearest(&connection, &to, all).unwrap(), expected);
        Ok(())
    });
    assert!(tally.keeps_the_recall(), "{tally:?}");
}

/// Rows that are hard to tell apart: the same vector many times, its neighbours in the last bit, and
/// others on all sides of it.
fn crowded(random: &mut arbtest::arbitrary::Unstructured<'_>) -> Vec<f32> {
    let direction = vector(random.int_in_range(0..=2).unwrap_or(0));
    let step = random.int_in_range(0..=3).unwrap_or(0);
    let at = random.int_in_range(0..=DIMENSION - 1).unwrap_or(0);
    let mut numbers = direction;
    match step {
        0 => {}
        1 => numbers[at] = f32::from_bits(numbers[at].to_bits() ^ 1),
        2 => numbers[at] += 1e-4,
        _ => numbers = numbers.iter().map(|it| -it).collect(),
    }
    let length = numbers.iter().map(|it| f64::from(*it).powi(2)).sum::<f64>().sqrt();
    match (length - 1.0).abs() < 1e-6 {
        true => numbers,
        false => numbers.into_iter().map(|it| (f64::from(it) / length) as f32).collect(),
    }
}

#[test]
fn exact_answers_are_those_of_the_twin_in_a_crowd() {
    arbtest::arbtest(|random| {
        let connection = host::memory();
        made(&connection);
        let rows: Vec<(i64, Vec<f32>)> =
            (0..500).map(|it| (it * 7 % 500 + 1, crowded(random))).collect();
        let transaction = connection.unchecked_transaction().unwrap();
        let mut insert =
            connection.prepare("INSERT INTO t(rowid, embedding) VALUES (?1, ?2)").unwrap();
        for (rowid, numbers) in &rows {
            insert.execute(params![rowid, bytes(numbers)]).unwrap();
        }
        transaction.commit().unwrap();
        connection.execute_batch("INSERT INTO t(t) VALUES ('optimize')").unwrap();
        assert!(0 < number(&connection, "SELECT count(*) FROM t_codes"));
        for _ in 0..4 {
            let to = crowded(random);
            let expected = twin(rows.iter().map(|it| (it.0, &it.1)), &to);
            let some = random.int_in_range(1..=30)?;
            for (filter, rest) in [("", some), (" AND rowid > 250", 20)] {
                let sql = format!(
                    "SELECT rowid FROM t WHERE embedding MATCH ?1 AND recall = 1{filter} ORDER BY distance LIMIT {rest}"
                );
                let allowed = expected.iter().filter(|it| filter.is_empty() || 250 < **it);
                let allowed: Vec<i64> = allowed.copied().take(rest).collect();
                assert_eq!(nearest(&connection, &to, &sql).unwrap(), allowed);
            }
            let all = "SELECT rowid FROM t WHERE embedding MATCH ?1 AND recall = 1 ORDER BY distance";
            assert_eq!(nearest(&connection, &to, all).unwrap(), expected);
        }
        Ok(())
    })
    .budget_ms(4_000);
}

#[test]
fn several_threads_answer_as_one() {
    let folder = tempfile::tempdir().unwrap();
    let connection = filled(&folder.path().join("t.db"), 6_000);
    let threads = |count: i64| number(&connection, &format!("SELECT dualpath_threads({count})"));
    for seed in 0..10 {
        let to = vector(70_000 + 11 * seed);
        for rest in ["LIMIT 10", "LIMIT 300", "LIMIT 20 OFFSET 100", ""] {
            for filter in ["", " AND rowid > 3000", " AND distance > 0.3"] {
                let sql = format!(
                    "SELECT rowid FROM t WHERE embedding MATCH ?1 AND recall = 1{filter} ORDER BY distance {rest}"
                );
                let [one, two, three] = [1, 2, 3].map(|count| {
                    assert_eq!(threads(count), count);
                    nearest(&connection, &to, &sql).unwrap()
                });
                assert!(!one.is_empty() && one == two && one == three);
            }
        }
    }
    assert_eq!(threads(1), 1);
    for (count, words) in [("0", "0 threads"), ("65", "1 to 64"), ("'two'", "count")] {
        let sql = format!("SELECT dualpath_threads({count})");
        let outcome = connection.query_row(&sql, [], |_| Ok(()));
        assert!(host::message(outcome).contains(words));
    }
}

#[test]
fn a_search_reads_through_a_mapping_unless_the_host_has_said_how() {
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("t.db");
    filled(&database, 500);
    let sql = "SELECT rowid FROM t WHERE embedding MATCH ?1 ORDER BY distance LIMIT 1";
    for (before, expected) in
        [("SELECT 1", 1 << 30..i64::MAX), ("PRAGMA mmap_size = 4096", 4096..4097)]
    {
        let connection = open(&database);
        let mut statement = connection.prepare(before).unwrap();
        let mut rows = statement.query([]).unwrap();
        while rows.next().unwrap().is_some() {}
        nearest(&connection, &vector(1), sql).unwrap();
        assert!(expected.contains(&number(&connection, "PRAGMA mmap_size")));
    }
}

/// Files whose blocks of lists have planes, or whose rows have an entry each, go on as they are, until they are rebuilt.
#[test]
fn random_work_on_tables_of_earlier_formats() {
    let databases = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/databases");
    for old in ["format-3.db", "format-4.db", "format-7.db"] {
        arbtest::arbtest(|random| {
            let folder = tempfile::tempdir().unwrap();
            let database = folder.path().join("t.db");
            std::fs::copy(databases.join(old), &database).unwrap();
            let mut connection = open(&database);
            let mut work = Work::over(stored(&connection), vector);
            for _ in 0..random.int_in_range(1..=20)? {
                work.is_done(&mut connection, &database, random)?;
            }
            assert_eq!(check(&connection), "ok");
            let to = vector(random.int_in_range(0..=100_000)?);
            let expected = twin(work.rows.iter().map(|it| (*it.0, it.1)), &to);
            let all =
                "SELECT rowid FROM t WHERE embedding MATCH ?1 AND recall = 1 ORDER BY distance";
            assert_eq!(nearest(&connection, &to, all).unwrap(), expected);
            for few in [&expected[..expected.len().min(5)], &expected[..expected.len().min(1)]] {
                let sql = format!("{all} LIMIT {}", few.len());
                assert_eq!(nearest(&connection, &to, &sql).unwrap(), few);
            }
            Ok(())
        })
        .budget_ms(2_000);
    }
}

/// Each page of rows fills one of the file, whatever its size, and what SQLite keeps there for others is left to them.
#[test]
fn pages_of_rows_are_pages_of_the_file() {
    let folder = tempfile::tempdir().unwrap();
    for page in [512, 1024, 4096, 65_536] {
        let connection = open(&folder.path().join(format!("{page}.db")));
        connection.execute_batch(&format!("PRAGMA page_size = {page}")).unwrap();
        connection
            .execute_batch(
                "CREATE VIRTUAL TABLE t USING dualpath(dimensions = 3000);
                 INSERT INTO t_config(key, value) VALUES ('worth', 1000)",
            )
            .unwrap();
        let row = |it: i64| (0..3000).map(|at| ((it * 7 + at) % 31) as f32 - 15.5).collect();
        host::insert(&connection, (1..=70).map(|it| (it, row(it))));
        connection.execute_batch("INSERT INTO t(t) VALUES ('optimize')").unwrap();
        assert_eq!(check(&connection), "ok");
        assert!(0 < number(&connection, "SELECT count(*) FROM t_paged"));
        let spilt = "SELECT count(*) FROM dbstat WHERE name = 't_paged' AND pagetype = 'overflow'";
        assert_eq!(number(&connection, spilt), 0);
        let unused = "SELECT max(unused) FROM dbstat WHERE name = 't_paged' AND pagetype = 'leaf'";
        assert!(number(&connection, unused) < 30);
        let all =
            "SELECT rowid FROM t WHERE embedding MATCH ?1 AND recall = 1 ORDER BY distance LIMIT 1";
        for it in [1, 9, 64, 70] {
            let found = nearest(&connection, &row(it), all).unwrap();
            assert_eq!(row(found[0]), row(it));
        }
        connection.execute_batch("DELETE FROM t WHERE rowid % 2; VACUUM").unwrap();
        assert_eq!(check(&connection), "ok");
        // Of another size from now on.
        connection.execute_batch("PRAGMA page_size = 2048; VACUUM").unwrap();
        assert_eq!(check(&connection), "ok");
        connection.execute_batch("INSERT INTO t(t) VALUES ('rebuild')").unwrap();
        assert_eq!(check(&connection), "ok");
        let page = number(&connection, "SELECT value FROM t_config WHERE key = 'page'");
        assert_eq!(page, 2048 - 40);
        assert_eq!(number(&connection, "SELECT max(length(rows)) FROM t_paged"), page);
    }
}

/// A file whose codes have no bounds: searched exactly by reading all, until it is rebuilt.
#[test]
fn a_database_of_format_3_opens() {
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("t.db");
    let old = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/databases/format-3.db");
    std::fs::copy(old, &database).unwrap();
    let connection = open(&database);
    let mut rows = stored(&connection);
    let format = "SELECT value FROM t_config WHERE key = 'format'";
    for (work, expected) in [
        ("SELECT 1", 3),
        ("DELETE FROM t WHERE rowid = 300", 3),
        ("INSERT INTO t(t) VALUES ('optimize')", 3),
        ("INSERT INTO t(t) VALUES ('rebuild')", 8),
    ] {
        connection.execute_batch(work).unwrap();
        if work.starts_with("DELETE") {
            rows.remove(&300);
        }
        assert_eq!(check(&connection), "ok");
        assert_eq!(number(&connection, format), expected);
        for seed in 0..20 {
            let to = vector(seed);
            let expected = &twin(rows.iter().map(|it| (*it.0, it.1)), &to)[..5];
            let exact = "SELECT rowid FROM t WHERE embedding MATCH ?1 AND recall = 1 ORDER BY distance LIMIT 5";
            assert_eq!(nearest(&connection, &to, exact).unwrap(), expected);
            let likely = nearest(&connection, &to, &exact.replace("recall = 1", "recall = 0.99"));
            assert!(4 <= shared(&likely.unwrap(), expected));
        }
    }
}

#[test]
fn what_is_asked_is_found_from_near_and_from_elsewhere() {
    let folder = tempfile::tempdir().unwrap();
    let connection = filled(&folder.path().join("t.db"), 4_000);
    let rows: Vec<(i64, Vec<f32>)> = (1..=4_000).map(|it| (it, vector(it))).collect();
    let expected: f64 = connection
        .query_row("SELECT json_extract(dualpath_status('t'), '$.expected')", [], |row| row.get(0))
        .unwrap();
    assert!((0.98..=1.0).contains(&expected), "{expected}");
    // Rows lie about twenty directions: these queries are as they are, and on the far side of nowhere.
    let near: Vec<Vec<f32>> = (0..60).map(|it| vector(50_000 + 31 * it)).collect();
    let elsewhere = near.iter().enumerate().map(|(at, it)| {
        let turned = it.iter().cycle().skip(at % DIMENSION).zip([1.0, -1.0].iter().cycle());
        turned.take(DIMENSION).map(|(number, sign)| number * sign).collect()
    });
    let elsewhere: Vec<Vec<f32>> = elsewhere.collect();
    let nearest_of = |queries: Vec<Vec<f32>>| -> Vec<(Vec<f32>, Vec<i64>)> {
        let all = |to: &[f32]| twin(rows.iter().map(|it| (it.0, &it.1)), to)[..200].to_vec();
        queries.into_iter().map(|to| (to.clone(), all(&to))).collect()
    };
    let (near, elsewhere) = (nearest_of(near), nearest_of(elsewhere));
    for learned in [true, false] {
        if !learned {
            let sql = "UPDATE t_config SET value = 'nothing' WHERE key = 'learned'";
            assert_eq!(connection.execute(sql, []).unwrap(), 1);
        }
        for recall in [0.8, 0.9, 0.95, 0.99] {
            for (queries, count) in [&near, &elsewhere]
                .into_iter()
                .flat_map(|it| [10, 50, 200].map(|count| (it, count)))
            {
                let sql = format!(
                    "SELECT rowid FROM t WHERE embedding MATCH ?1 AND recall = {recall} ORDER BY distance LIMIT {count}"
                );
                let found: usize = queries
                    .iter()
                    .map(|(to, expected)| {
                        shared(&nearest(&connection, to, &sql).unwrap(), &expected[..count])
                    })
                    .sum();
                let all = queries.len() * count;
                assert!(
                    recall * all as f64 <= found as f64,
                    "{found} of {all} where {recall} was asked"
                );
            }
        }
    }
}

/// The lists of rows that are in any, as `_places` says it.
fn lists_of_rows(connection: &Connection) -> BTreeMap<i64, i64> {
    let mut statement = connection.prepare("SELECT chunk, count, places FROM t_places").unwrap();
    let chunks = statement
        .query_map([], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, u32>(1)?, row.get(2)?)))
        .unwrap();
    let mut lists = BTreeMap::new();
    for (chunk, count, places) in chunks.map(Result::unwrap) {
        let places: Vec<u8> = places;
        let (rows, places) = places.split_at(count as usize);
        for (row, place) in rows.iter().zip(places.chunks(places.len() / rows.len())) {
            let number = place.iter().rev().fold(0, |sum, it| sum << 8 | i64::from(*it));
            if number & 1 == 1 {
                lists.insert(chunk << 8 | i64::from(*row), number >> (1 + 8 + 10));
            }
        }
    }
    lists
}

/// Of a table that grew by small commits, most rows stand with the centre that is nearest to them, as those do that were
/// written before it was there.
#[test]
fn rows_go_to_halves_of_lists_that_are_nearer() {
    // On all sides.
    let vector = |it: i64| -> Vec<f32> {
        let parts = [vector(it), vector(it / 20), vector(it / 400 + 7)];
        let sum = (0..DIMENSION).map(|at| parts[0][at] + parts[1][(at + 3) % 12] - parts[2][at]);
        let length = sum.clone().map(|it| it * it).sum::<f32>().sqrt();
        sum.map(|it| it / length).collect()
    };
    let connection = host::memory();
    made(&connection);
    for first in (1..=3_000).step_by(40) {
        host::insert(&connection, (first..first + 40).map(|it| (it, vector(it))));
        connection.execute_batch("INSERT INTO t(t) VALUES ('optimize')").unwrap();
    }
    assert_eq!(check(&connection), "ok");
    let mut statement = connection.prepare("SELECT list, centre FROM t_lists").unwrap();
    let centres = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
    let centres: Vec<(i64, Vec<f32>)> = centres
        .map(|it| {
            let (list, bytes): (i64, Vec<u8>) = it.unwrap();
            let halves = bytes.chunks(2).map(|it| f16::from_le_bytes([it[0], it[1]]).to_f32());
            (list, halves.collect())
        })
        .collect();
    let far = |row: i64, centre: &[f32]| -> f32 {
        vector(row).iter().zip(centre).map(|(a, b)| (a - b).powi(2)).sum()
    };
    let lists = lists_of_rows(&connection);
    let is_nearest = |(row, list): &(&i64, &i64)| {
        let (best, _) =
            centres.iter().min_by(|a, b| far(**row, &a.1).total_cmp(&far(**row, &b.1))).unwrap();
        best == *list
    };
    let share = 100 * lists.iter().filter(is_nearest).count() / lists.len();
    assert!(86 <= share, "{share} of 100");
}

/// Rows of another kind come by small commits: they are given lists, instead of being scattered over all there are.
#[test]
fn rows_of_another_kind_get_lists_of_their_own() {
    const NUMBERS: usize = 96;
    // A unit vector about one of thirty directions, of which each kind has its own.
    let row = |kind: u64, seed: u64| -> Vec<f32> {
        let numbers = |seed: u64, scale: f32| {
            let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15);
            let next = move |_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                scale * ((state >> 40) as f32 / (1 << 23) as f32 - 1.0)
            };
            (0..NUMBERS).map(next)
        };
        let direction = numbers(1_000_000 * kind + seed % 30 + 1, 1.0);
        let own = numbers(1_000_003 * kind + seed + 77, 0.8);
        let sum: Vec<f32> = direction.zip(own).map(|(a, b)| a + b).collect();
        let length = sum.iter().map(|it| it * it).sum::<f32>().sqrt();
        sum.into_iter().map(|it| it / length).collect()
    };
    let connection = host::memory();
    connection
        .execute_batch(&format!(
            "CREATE VIRTUAL TABLE t USING dualpath(dimensions = {NUMBERS});
             INSERT INTO t_config(key, value) VALUES ('worth', 20000)"
        ))
        .unwrap();
    let insert = |kind: u64, rows: std::ops::RangeInclusive<i64>| {
        let transaction = connection.unchecked_transaction().unwrap();
        host::insert(&connection, rows.map(|it| (it, row(kind, it as u64))));
        transaction.commit().unwrap();
    };
    insert(1, 1..=4_000);
    for part in 0..3 {
        insert(2, 4_001 + 100 * part..=4_100 + 100 * part);
        connection.execute_batch("INSERT INTO t(t) VALUES ('optimize')").unwrap();
    }
    assert_eq!(check(&connection), "ok");
    let of = |rows: std::ops::RangeFrom<i64>| {
        let lists = lists_of_rows(&connection);
        lists.range(rows).map(|it| *it.1).collect::<BTreeSet<_>>().len()
    };
    let (own, all) = (of(4_001..), of(1..));
    assert!((1..=8).contains(&own) && 60 < all, "in {own} of {all} lists");
    let sql =
        "SELECT rowid FROM t WHERE embedding MATCH ?1 AND recall = 0.9 ORDER BY distance LIMIT 1";
    let is_found = |it: &i64| nearest(&connection, &row(2, *it as u64), sql).unwrap() == [*it];
    assert!(295 < (4_001..=4_300).filter(is_found).count());
}

#[test]
fn rows_go_into_lists_as_the_table_grows() {
    let connection = host::memory();
    made(&connection);
    insert(&connection, 1..=63);
    assert_eq!(number(&connection, "SELECT count(*) FROM t_config WHERE key = 'bits'"), 0);
    insert(&connection, 64..=2_000);
    connection.execute_batch("INSERT INTO t(t) VALUES ('optimize')").unwrap();
    let lists = number(&connection, "SELECT count(*) FROM t_lists");
    assert!((20..200).contains(&lists), "{lists}");
    assert_eq!(number(&connection, "SELECT count(*) FROM t_blocks WHERE block < 1 << 30"), 0);
    assert_eq!(number(&connection, "SELECT sum(count) FROM t_lists"), 2_000);
    assert_eq!(check(&connection), "ok");
    connection
        .execute_batch("DELETE FROM t WHERE rowid > 100; INSERT INTO t(t) VALUES ('optimize')")
        .unwrap();
    assert!(number(&connection, "SELECT count(*) FROM t_lists") < lists / 2);
    assert_eq!(check(&connection), "ok");
    connection.execute_batch("DELETE FROM t").unwrap();
    assert_eq!(
        number(
            &connection,
            "SELECT (SELECT count(*) FROM t_codes) + (SELECT count(*) FROM t_blocks) + (SELECT count(*) FROM t_paged) + (SELECT count(*) FROM t_places)"
        ),
        0
    );
    insert(&connection, 1..=500);
    assert_eq!(check(&connection), "ok");
    connection.execute_batch("ALTER TABLE t RENAME TO u; DROP TABLE u").unwrap();
    assert_eq!(number(&connection, "SELECT count(*) FROM sqlite_schema"), 0);
}

#[test]
fn tables_of_the_user_that_are_called_as_those_of_lists_stay() {
    for taken in [
        "TABLE t_lists(x)",
        "TABLE T_Codes(x)",
        "VIEW t_paged AS SELECT 7 AS x",
        "TABLE t_places(x)",
    ] {
        let connection = host::memory();
        made(&connection);
        connection.execute_batch(&format!("CREATE {taken}")).unwrap();
        insert(&connection, 1..=500);
        connection.execute_batch("INSERT INTO t(t) VALUES ('optimize')").unwrap();
        assert_eq!(number(&connection, "SELECT count(*) FROM t"), 500);
        assert_eq!(number(&connection, "SELECT value FROM t_config WHERE key = 'format'"), 1);
        let sql = "SELECT rowid FROM t WHERE embedding MATCH ?1 ORDER BY distance LIMIT 1";
        assert_eq!(nearest(&connection, &vector(77), sql).unwrap(), [77]);
        assert_eq!(check(&connection), "ok");
        let what = taken.split(['(', ' ']).take(2).collect::<Vec<_>>().join(" ");
        connection.execute_batch(&format!("DROP {what}")).unwrap();
        connection.execute_batch("INSERT INTO t(t) VALUES ('optimize')").unwrap();
        assert_eq!(number(&connection, "SELECT value FROM t_config WHERE key = 'format'"), 8);
        assert_eq!(check(&connection), "ok");
    }
}

/// A search reads a list's codes at once where no other list's vectors lie between them, and the first of a process all lists.
#[test]
fn lists_and_codes_lie_beside_each_other_in_the_file() {
    let connection = host::memory();
    made(&connection);
    let transaction = connection.unchecked_transaction().unwrap();
    insert(&connection, 1..=5_000);
    transaction.commit().unwrap();
    // Each block's codes begin in the page where its overflow does. Some fill pages that rows were in before.
    let near = "SELECT 100 * avg(abs(pageno - before) <= 40) FROM (
          SELECT pageno, lag(pageno) OVER (ORDER BY path) AS before FROM dbstat
          WHERE name = 't_codes' AND path LIKE '%+000000')";
    let near: f64 = connection.query_row(near, [], |row| row.get(0)).unwrap();
    assert!(25.0 < near, "{near} of 100 blocks");
    // So many that their lists fill more than a few pages.
    let connection = host::memory();
    made(&connection);
    let transaction = connection.unchecked_transaction().unwrap();
    insert(&connection, 1..=20_000);
    transaction.commit().unwrap();
    let near = "SELECT 100 * avg(abs(pageno - before) <= 1) FROM (
          SELECT pageno, lag(pageno) OVER (ORDER BY path) AS before FROM dbstat
          WHERE name = 't_lists' AND pagetype = 'leaf')";
    let near: f64 = connection.query_row(near, [], |row| row.get(0)).unwrap();
    assert!(75.0 < near, "{near} of 100 pages of lists");
}

#[test]
fn a_rollback_takes_lists_back() {
    let connection = host::memory();
    made(&connection);
    insert(&connection, 1..=40);
    connection.execute_batch("BEGIN").unwrap();
    insert(&connection, 41..=900);
    connection
        .execute_batch(
            "INSERT INTO t(t) VALUES ('optimize'); SAVEPOINT s; DELETE FROM t WHERE rowid < 500",
        )
        .unwrap();
    let sql = "SELECT rowid FROM t WHERE embedding MATCH ?1 ORDER BY distance LIMIT 1";
    assert_ne!(nearest(&connection, &vector(77), sql).unwrap(), [77]);
    connection.execute_batch("ROLLBACK TO s").unwrap();
    assert_eq!(nearest(&connection, &vector(77), sql).unwrap(), [77]);
    assert_eq!(check(&connection), "ok");
    connection.execute_batch("ROLLBACK").unwrap();
    assert_eq!(number(&connection, "SELECT count(*) FROM sqlite_schema WHERE name = 't_codes'"), 0);
    assert_eq!(number(&connection, "SELECT count(*) FROM t"), 40);
    assert_eq!(nearest(&connection, &vector(7), sql).unwrap(), [7]);
    assert_eq!(check(&connection), "ok");
}

#[test]
fn another_connection_sees_each_commit() {
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("t.db");
    let writer = filled(&database, 1_000);
    let reader = open(&database);
    let sql = "SELECT rowid FROM t WHERE embedding MATCH ?1 ORDER BY distance LIMIT 1";
    assert_eq!(nearest(&reader, &vector(500), sql).unwrap(), [500]);
    writer.execute_batch("DELETE FROM t WHERE rowid = 500").unwrap();
    assert_ne!(nearest(&reader, &vector(500), sql).unwrap(), [500]);
    insert(&writer, 5_000..=5_003);
    for row in 5_000..=5_003 {
        assert_eq!(nearest(&reader, &vector(row), sql).unwrap(), [row]);
    }
    writer.execute_batch("INSERT INTO t(t) VALUES ('rebuild')").unwrap();
    assert_eq!(nearest(&reader, &vector(5_002), sql).unwrap(), [5_002]);
    writer.execute_batch("VACUUM").unwrap();
    assert_eq!(nearest(&reader, &vector(5_001), sql).unwrap(), [5_001]);
    assert_eq!(check(&reader), "ok");
}

/// What a connection knows of how a table is written holds until another one writes it in another way.
#[test]
fn another_connection_sees_lists_begin_and_formats_change() {
    let folder = tempfile::tempdir().unwrap();
    let databases = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/databases");
    for name in ["new", "format-3.db", "format-4.db", "format-7.db"] {
        let database = folder.path().join(name);
        match name {
            "new" => drop(filled(&database, 60)),
            old => drop(std::fs::copy(databases.join(old), &database).unwrap()),
        }
        let (writer, reader) = (open(&database), open(&database));
        let sql = "SELECT rowid FROM t WHERE embedding MATCH ?1 AND recall = 1 ORDER BY distance";
        let count = "SELECT count(*) FROM t WHERE rowid % 2";
        for work in ["SELECT 1", "INSERT INTO t(t) VALUES ('rebuild')", "SELECT 1"] {
            if name == "new" {
                let first = 1 + number(&writer, "SELECT count(*) FROM t");
                insert(&writer, first..first + 40);
            }
            writer.execute_batch(work).unwrap();
            let rows = stored(&writer);
            let expected = twin(rows.iter().map(|it| (*it.0, it.1)), &vector(9));
            assert_eq!(nearest(&reader, &vector(9), sql).unwrap(), expected);
            assert_eq!(number(&reader, count), number(&writer, count));
        }
        assert_eq!(number(&reader, "SELECT value FROM t_config WHERE key = 'format'"), 8);
        reader.execute_batch("DELETE FROM t WHERE rowid = 5").unwrap();
        assert_eq!(check(&writer), "ok");
    }
}

#[test]
fn filters_give_exactly_as_many_as_there_are() {
    let folder = tempfile::tempdir().unwrap();
    let connection = filled(&folder.path().join("t.db"), 3_000);
    let rows: Vec<(i64, Vec<f32>)> = (1..=3_000).map(|it| (it, vector(it))).collect();
    for (filter, allowed) in [
        (
            "rowid IN (SELECT value FROM generate(10, 300))",
            Box::new(|it: i64| it % 300 == 10) as Box<dyn Fn(i64) -> bool>,
        ),
        ("rowid IN (SELECT value FROM generate(1, 3))", Box::new(|it: i64| it % 3 == 1)),
        ("rowid > 2700", Box::new(|it: i64| 2_700 < it)),
        ("rowid BETWEEN 5 AND 9", Box::new(|it: i64| (5..=9).contains(&it))),
    ] {
        let filter = match filter.split_once("generate(") {
            Some((_, part)) => {
                let (rest, step) = part.trim_end_matches(')').split_once(", ").unwrap();
                format!(
                    "rowid IN (WITH g(v) AS (VALUES ({rest}) UNION ALL SELECT v + {step} FROM g WHERE v + {step} <= 3000) SELECT v FROM g)"
                )
            }
            None => filter.to_owned(),
        };
        let (mut found, mut wanted) = (0, 0);
        for seed in 0..40 {
            let to = vector(seed * 31);
            let expected =
                twin(rows.iter().filter(|it| allowed(it.0)).map(|it| (it.0, &it.1)), &to);
            let expected = &expected[..expected.len().min(20)];
            let sql = format!(
                "SELECT rowid FROM t WHERE embedding MATCH ?1 AND {filter} ORDER BY distance LIMIT 20"
            );
            let likely = nearest(&connection, &to, &sql).unwrap();
            assert_eq!(likely.len(), expected.len(), "{filter}");
            assert!(likely.iter().all(|it| allowed(*it)));
            found += shared(&likely, expected);
            wanted += expected.len();
        }
        assert!(95 * wanted <= 100 * found, "{filter}: {found} of {wanted}");
    }
}

#[test]
fn distances_rise_as_long_as_rows_are_taken() {
    let folder = tempfile::tempdir().unwrap();
    let connection = filled(&folder.path().join("t.db"), 4_000);
    let mut statement = connection
        .prepare("SELECT rowid, distance FROM t WHERE embedding MATCH ?1 ORDER BY distance")
        .unwrap();
    let rows = statement.query_map([bytes(&vector(9))], |row| Ok((row.get(0)?, row.get(1)?)));
    let rows: Vec<(i64, f64)> = rows.unwrap().map(Result::unwrap).collect();
    assert!(rows.is_sorted_by(|a, b| a.1 <= b.1));
    let mut rowids: Vec<i64> = rows.iter().map(|it| it.0).collect();
    rowids.sort_unstable();
    rowids.dedup();
    // A few of the first page may be missing, and no other.
    assert!((3_990..=4_000).contains(&rowids.len()), "{}", rowids.len());
    let sql = "SELECT count(*) FROM t WHERE embedding MATCH ?1";
    assert_eq!(nearest(&connection, &vector(9), sql).unwrap(), [4_000]);
    let within =
        "SELECT rowid FROM t WHERE embedding MATCH ?1 AND distance < 0.05 ORDER BY distance";
    let found = nearest(&connection, &vector(9), within).unwrap();
    let exact =
        nearest(&connection, &vector(9), &within.replace("AND", "AND recall = 1 AND")).unwrap();
    assert!(95 * exact.len() <= 100 * shared(&found, &exact) && found.len() <= exact.len());
}

#[test]
fn the_same_vector_a_thousand_times_stays_in_bounds() {
    let connection = host::memory();
    made(&connection);
    let transaction = connection.unchecked_transaction().unwrap();
    for row in 1..=3_000 {
        let content = vector(if row % 3 == 0 { row } else { 1 });
        connection
            .execute(
                "INSERT INTO t(rowid, embedding) VALUES (?1, ?2)",
                params![row, bytes(&content)],
            )
            .unwrap();
    }
    transaction.commit().unwrap();
    connection.execute_batch("INSERT INTO t(t) VALUES ('optimize')").unwrap();
    assert!(number(&connection, "SELECT max(count) FROM t_lists") <= 2 * 54);
    let sql = "SELECT rowid FROM t WHERE embedding MATCH ?1 ORDER BY distance LIMIT 1";
    assert_eq!(nearest(&connection, &vector(300), sql).unwrap(), [300]);
    assert_eq!(check(&connection), "ok");
}

/// Each damage, and what the check says of it.
const DAMAGES: &[(&str, &str)] = &[
    ("DELETE FROM t_lists WHERE list = 3", "is in list 3, which is missing"),
    ("UPDATE t_lists SET count = 9999 WHERE list = 3", "list 3 counts"),
    ("UPDATE t_lists SET count = -1 WHERE list = 3", "list 3 counts"),
    ("UPDATE t_lists SET count = 'x' WHERE list = 3", "list 3 counts"),
    ("UPDATE t_lists SET spread = -1 WHERE list = 3", "the spread of list 3"),
    ("UPDATE t_lists SET spread = 'x' WHERE list = 3", "the spread of list 3"),
    ("UPDATE t_lists SET centre = x'0000' WHERE list = 3", "the centre of list 3"),
    ("UPDATE t_lists SET centre = 7 WHERE list = 3", "the centre of list 3"),
    (
        "UPDATE t_lists SET centre = CAST(replace(hex(zeroblob(12)), '00', x'ffff') AS BLOB) WHERE list = 3",
        "the centre of list 3",
    ),
    ("UPDATE t_lists SET centre = zeroblob(length(centre)) WHERE list = 3", "the codes of block"),
    ("DELETE FROM t_lists", "which is missing"),
    ("UPDATE t_codes SET codes = x''", "the codes of block"),
    ("UPDATE t_codes SET codes = zeroblob(length(codes))", "the codes of block"),
    ("UPDATE t_codes SET codes = zeroblob(1 + length(codes))", "the codes of block"),
    ("UPDATE t_codes SET codes = 'x'", "the codes of block"),
    (
        "UPDATE t_codes SET codes = CAST(replace(hex(zeroblob(length(codes) / 2)), '00', x'ff7f') AS BLOB)",
        "the codes of block",
    ),
    ("DELETE FROM t_codes", "the codes of block"),
    ("INSERT INTO t_codes(block, codes) VALUES ((1 << 30) + 999999, x'00')", "have no block"),
    ("DELETE FROM t_blocks WHERE block > 1 << 30", "has no block"),
    ("UPDATE t_blocks SET count = count - 1 WHERE block > 1 << 30", "is in no block"),
    ("DELETE FROM t_paged", "has 0 pages and"),
    ("DELETE FROM t_paged WHERE page = (SELECT min(page) FROM t_paged)", "expected page 0"),
    ("UPDATE t_paged SET rows = x'00'", "page 0 of block"),
    ("UPDATE t_paged SET rows = 'x'", "page 0 of block"),
    ("UPDATE t_paged SET rows = zeroblob(length(rows))", "all zeros"),
    ("UPDATE t_paged SET page = -page", "has no block"),
    ("INSERT INTO t_paged(page, rows) VALUES (7, x'00')", "page 7 has no block"),
    (
        "INSERT INTO t_paged(page, rows) SELECT page + 1, rows FROM t_paged WHERE page = (SELECT max(page) FROM t_paged)",
        "rows fill 3",
    ),
    ("UPDATE t_blocks SET high = x'' WHERE block > 1 << 30", "0 bytes behind them"),
    ("UPDATE t_blocks SET high = 7 WHERE block > 1 << 30", "has no rowids or no high plane"),
    ("INSERT INTO t_low(block, low) SELECT block, x'00' FROM t_blocks", "has a low plane"),
    ("UPDATE t_blocks SET rowids = x'00' WHERE block > 1 << 30", "have no 1 bytes of rowids"),
    ("UPDATE t_blocks SET rowids = x'0000' || rowids WHERE block > 1 << 30", "has no rowids"),
    (
        "UPDATE t_blocks SET rowids = zeroblob(length(rowids)) WHERE block > 1 << 30",
        "bytes of rowids",
    ),
    ("UPDATE t_blocks SET rowids = zeroblob(9) WHERE block > 1 << 30", "is in two slots"),
    ("UPDATE t_places SET places = x'00'", "has 1 bytes that are not of"),
    ("UPDATE t_places SET places = 7", "has 0 bytes that are not of"),
    ("UPDATE t_places SET places = zeroblob(length(places))", "bytes that are not of"),
    ("UPDATE t_places SET count = count - 1", "bytes that are not of"),
    ("UPDATE t_places SET count = -1", "that are not of -1 rows"),
    ("DELETE FROM t_places WHERE chunk = 1", "but has no entry"),
    ("UPDATE t_places SET chunk = chunk + 9 WHERE chunk = 1", "is in no block"),
    ("UPDATE t_places SET chunk = 1 << 62 WHERE chunk = 1", "is in no block"),
    ("INSERT INTO t_rows(rowid, place) VALUES (777, 1 << 16)", "row 777 has an entry"),
    ("UPDATE t_config SET value = 0 WHERE key = 'page'", "'page' is 0"),
    ("UPDATE t_config SET value = 'x' WHERE key = 'page'", "'page' is 0"),
    ("UPDATE t_config SET value = 100 WHERE key = 'page'", "rows need 14 and 40"),
    ("DELETE FROM t_config WHERE key = 'page'", "'page' is missing"),
    ("UPDATE t_config SET value = 9 WHERE key = 'bits'", "'bits' is 9"),
    ("UPDATE t_config SET value = 1 WHERE key = 'bits'", "the codes of block"),
    ("DELETE FROM t_config WHERE key = 'bits'", "'bits' is 0"),
];

#[test]
fn damage_is_found_harms_nobody_and_is_repaired() {
    let folder = tempfile::tempdir().unwrap();
    let sound = folder.path().join("sound.db");
    filled(&sound, 600).execute_batch("INSERT INTO t(t) VALUES ('optimize')").unwrap();
    for (at, (damage, words)) in DAMAGES.iter().enumerate() {
        let database = folder.path().join(format!("{at}.db"));
        std::fs::copy(&sound, &database).unwrap();
        Connection::open(&database).unwrap().execute_batch(damage).unwrap();
        let connection = open(&database);
        let findings = check(&connection);
        assert!(findings.contains(words), "{damage}: {findings}");
        for limit in ["LIMIT 3", "LIMIT -1"] {
            let sql =
                format!("SELECT rowid FROM t WHERE embedding MATCH ?1 ORDER BY distance {limit}");
            if let Err(err) = nearest(&connection, &vector(5), &sql) {
                assert!(err.to_string().contains("is damaged"), "{damage}: {err}");
            }
        }
        for sql in [
            "DELETE FROM t WHERE rowid = 5",
            "UPDATE t SET embedding = (SELECT embedding FROM t WHERE rowid = 9) WHERE rowid = 6",
            "INSERT INTO t(rowid, embedding) SELECT rowid + 1000, embedding FROM t",
            "INSERT INTO t(t) VALUES ('optimize')",
        ] {
            if let Err(err) = connection.execute_batch(sql) {
                assert!(err.to_string().contains("is damaged"), "{damage}: {sql}: {err}");
            }
            check(&connection);
        }
        // What is left of the vectors is whole again.
        let lost = ["t_blocks", "t_paged"].iter().any(|it| damage.contains(it));
        if !lost || damage.contains("(7, x'00')") {
            std::fs::copy(&sound, &database).unwrap();
            let connection = open(&database);
            connection.execute_batch(damage).unwrap();
            connection.execute_batch("INSERT INTO t(t) VALUES ('rebuild')").unwrap();
            assert_eq!(check(&connection), "ok", "{damage}");
            assert_eq!(number(&connection, "SELECT count(*) FROM t"), 600);
        }
    }
}

#[test]
fn flipped_bytes_never_abort() {
    let folder = tempfile::tempdir().unwrap();
    let sound = folder.path().join("sound.db");
    filled(&sound, 400).execute_batch("INSERT INTO t(t) VALUES ('optimize')").unwrap();
    host::flipped(&sound, 100, |connection| {
        for seed in 0..5 {
            let sql = "SELECT rowid FROM t WHERE embedding MATCH ?1 ORDER BY distance LIMIT 5";
            let _ = nearest(connection, &vector(seed), sql);
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

#[test]
fn a_recall_out_of_range_is_refused() {
    let connection = host::memory();
    made(&connection);
    insert(&connection, 1..=3);
    for recall in ["2", "0", "-0.5", "'high'", "9e999"] {
        let sql =
            format!("SELECT rowid FROM t WHERE embedding MATCH ?1 AND recall = {recall} LIMIT 1");
        let refused = host::message(nearest(&connection, &vector(1), &sql));
        assert!(refused.contains("above 0 and up to 1"), "{refused}");
    }
    let sql = "SELECT recall FROM t WHERE embedding MATCH ?1 AND recall = 0.5 LIMIT 1";
    let mut statement = connection.prepare(sql).unwrap();
    let recall: f64 = statement.query_row([bytes(&vector(1))], |row| row.get(0)).unwrap();
    assert_eq!(recall, 0.5);
}
