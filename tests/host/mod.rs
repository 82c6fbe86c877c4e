//! The host's side: bundled SQLite with the built library loaded, as an application has it.
#![allow(dead_code)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use arbtest::arbitrary::{self, Unstructured};
use rusqlite::{Connection, LoadExtensionGuard, params};

/// The library that this test run built, beside the test executable.
pub fn library() -> PathBuf {
    let name = format!("{}dualpath{}", std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX);
    std::env::current_exe().unwrap().with_file_name(name)
}

/// Loads the extension into a connection.
pub fn loaded(connection: Connection) -> Connection {
    // SAFETY: the library is ours, built a moment ago.
    #[allow(unsafe_code)]
    unsafe {
        let guard = LoadExtensionGuard::new(&connection).unwrap();
        connection.load_extension(library(), None::<&str>).unwrap();
        drop(guard);
    }
    connection
}

/// An in-memory database with the extension.
pub fn memory() -> Connection {
    loaded(Connection::open_in_memory().unwrap())
}

/// A database file with the extension.
pub fn open(database: &Path) -> Connection {
    loaded(Connection::open(database).unwrap())
}

/// A vector as a table takes it.
pub fn bytes(vector: &[f32]) -> Vec<u8> {
    vector.iter().flat_map(|it| it.to_le_bytes()).collect()
}

/// What a search by a vector finds, in its order.
pub fn nearest(connection: &Connection, to: &[f32], sql: &str) -> rusqlite::Result<Vec<i64>> {
    let mut statement = connection.prepare_cached(sql)?;
    statement.query_map([bytes(to)], |row| row.get(0))?.collect()
}

/// Inserts rows into the table `t`.
pub fn insert(connection: &Connection, rows: impl Iterator<Item = (i64, Vec<f32>)>) {
    let mut statement =
        connection.prepare_cached("INSERT INTO t(rowid, embedding) VALUES (?1, ?2)").unwrap();
    for (row, vector) in rows {
        statement.execute(params![row, bytes(&vector)]).unwrap();
    }
}

/// Random work on the table `t`, and what the table must hold after it.
pub struct Work {
    /// The rows that there are.
    pub rows: BTreeMap<i64, Vec<f32>>,
    vector: fn(i64) -> Vec<f32>,
    saved: Vec<BTreeMap<i64, Vec<f32>>>,
    next: i64,
    others: usize,
}

impl Work {
    /// On an empty table, whose rows' vectors follow from a number.
    pub fn new(vector: fn(i64) -> Vec<f32>) -> Work {
        Work::over(BTreeMap::new(), vector)
    }

    /// On a table of these rows.
    pub fn over(rows: BTreeMap<i64, Vec<f32>>, vector: fn(i64) -> Vec<f32>) -> Work {
        let next = rows.keys().max().map_or(1, |it| it + 1);
        Work { rows, vector, saved: Vec::new(), next, others: 0 }
    }

    /// Writes, saves, takes back, maintains or opens again; or leaves it to the test to search.
    pub fn is_done(
        &mut self,
        connection: &mut Connection,
        database: &Path,
        random: &mut Unstructured<'_>,
    ) -> arbitrary::Result<bool> {
        let row = random.int_in_range(1..=self.next)?;
        match random.int_in_range(0..=12)? {
            0..=2 => {
                let many = random.int_in_range(1..=300)?;
                let new = (self.next..self.next + many).map(|it| (it, (self.vector)(it)));
                connection.execute_batch("SAVEPOINT bulk").unwrap();
                insert(connection, new.clone());
                connection.execute_batch("RELEASE bulk").unwrap();
                self.rows.extend(new);
                self.next += many;
            }
            3 => {
                let sql = "DELETE FROM t WHERE rowid BETWEEN ?1 AND ?1 + 60";
                connection.execute(sql, [row]).unwrap();
                self.rows.retain(|it, _| !(row..=row + 60).contains(it));
            }
            4 => {
                let content = (self.vector)(row + 7);
                let sql = "UPDATE t SET embedding = ?2 WHERE rowid = ?1";
                connection.execute(sql, params![row, bytes(&content)]).unwrap();
                self.rows.entry(row).and_modify(|it| *it = content);
            }
            5 => {
                let sql = "UPDATE t SET rowid = ?2 WHERE rowid = ?1";
                connection.execute(sql, [row, self.next]).unwrap();
                if let Some(content) = self.rows.remove(&row) {
                    self.rows.insert(self.next, content);
                }
                self.next += 1;
            }
            6 => {
                connection.execute_batch("SAVEPOINT s").unwrap();
                self.saved.push(self.rows.clone());
            }
            7 => {
                if let Some(before) = self.saved.pop() {
                    let back = random.arbitrary()?;
                    let sql = if back { "ROLLBACK TO s; RELEASE s" } else { "RELEASE s" };
                    connection.execute_batch(sql).unwrap();
                    if back {
                        self.rows = before;
                    }
                }
            }
            8 => {
                let command = *random.choose(&["optimize", "rebuild", "integrity-check"])?;
                connection.execute("INSERT INTO t(t) VALUES (?1)", [command]).unwrap();
            }
            9 => {
                // Taken back, it has SQLite connect all tables anew.
                let sql = format!("CREATE TABLE other_{}(x)", self.others);
                connection.execute_batch(&sql).unwrap();
                self.others += 1;
            }
            10 if self.saved.is_empty() => *connection = open(database),
            _ => return Ok(false),
        }
        Ok(true)
    }
}

/// What random work came to.
#[derive(Debug, Default, Clone, Copy)]
pub struct Tally {
    /// How many of the rows that searches were to find.
    pub found: usize,
    pub wanted: usize,
    /// How many tables had lists in the end.
    pub listed: i64,
}

impl Tally {
    /// Searches, and tables with lists, that are enough to judge by.
    const ENOUGH: usize = 300;
    /// Times that a busy machine gets for it.
    const ROUNDS: usize = 20;

    /// Of random schedules for some time, and on where a busy machine did few.
    pub fn of(
        milliseconds: u64,
        schedule: impl Fn(&mut Tally, &mut Unstructured<'_>) -> arbitrary::Result<()>,
    ) -> Tally {
        let mut tally = Tally::default();
        for _ in 0..Tally::ROUNDS {
            arbtest::arbtest(|random| schedule(&mut tally, random)).budget_ms(milliseconds);
            if tally.is_enough() {
                break;
            }
        }
        tally
    }

    fn is_enough(&self) -> bool {
        0 < self.listed && Tally::ENOUGH <= self.wanted
    }

    /// Whether nine of ten were found, as they were asked for, in tables with lists too.
    pub fn keeps_the_recall(&self) -> bool {
        self.is_enough() && 9 * self.wanted <= 10 * self.found
    }
}

/// Rows by their rowids, as the table has them.
pub fn stored(connection: &Connection) -> BTreeMap<i64, Vec<f32>> {
    let mut statement = connection.prepare_cached("SELECT rowid, embedding FROM t").unwrap();
    let numbers = |blob: Vec<u8>| -> Vec<f32> {
        blob.as_chunks::<4>().0.iter().map(|it| f32::from_le_bytes(*it)).collect()
    };
    let rows = statement.query_map([], |row| Ok((row.get(0)?, numbers(row.get(1)?)))).unwrap();
    rows.map(Result::unwrap).collect()
}

/// Of the five `expected` rows, how many are found where 0.9 is asked; all of them where 1 is.
pub fn likely_of(connection: &Connection, to: &[f32], expected: &[i64]) -> usize {
    let five = |recall: &str| {
        let sql = format!(
            "SELECT rowid FROM t WHERE embedding MATCH ?1 AND recall = {recall} ORDER BY distance LIMIT 5"
        );
        nearest(connection, to, &sql).unwrap()
    };
    assert_eq!(five("1"), expected);
    let likely = five("0.9");
    assert_eq!(likely.len(), expected.len());
    shared(&likely, expected)
}

/// How many of the `expected` rows were found.
pub fn shared(found: &[i64], expected: &[i64]) -> usize {
    expected.iter().filter(|it| found.contains(it)).count()
}

/// What the table `t` says of itself.
pub fn check(connection: &Connection) -> String {
    connection.query_row("SELECT dualpath_check('t')", [], |row| row.get(0)).unwrap()
}

/// Opens so many copies of a database, each with eight bits flipped anywhere.
pub fn flipped(sound: &Path, copies: u64, then: impl Fn(&Connection)) {
    let file = std::fs::read(sound).unwrap();
    let database = sound.with_file_name("flipped.db");
    let mut state = 0x9E37_79B9_7F4A_7C15u64;
    for copy in 0..copies {
        let mut flipped = file.clone();
        for _ in 0..8 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888);
            // The first page is the schema: without it no statement could be prepared.
            let place = 4096 + (state >> 24) as usize % (flipped.len() - 4096);
            flipped[place] ^= 1 << (copy % 8);
        }
        std::fs::write(&database, flipped).unwrap();
        then(&open(&database));
    }
}

/// The error's own words.
#[track_caller]
pub fn message<T: std::fmt::Debug>(outcome: rusqlite::Result<T>) -> String {
    match outcome.unwrap_err() {
        rusqlite::Error::SqliteFailure(_, Some(message)) => message,
        rusqlite::Error::SqlInputError { msg, .. } => msg,
        other => other.to_string(),
    }
}

/// Fails with the remedy where ONNX Runtime is not set up.
pub fn runtime() {
    let connection = memory();
    let encoded =
        connection.query_row("SELECT embed_text('a dog')", [], |row| row.get::<_, Vec<u8>>(0));
    if let Err(err) = encoded {
        panic!("{err}\nrun scripts/onnxruntime, then the tests again");
    }
}
