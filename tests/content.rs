//! Tables over other tables, where SQL text cannot say it: processes, interrupts, files, damage.
#![allow(clippy::unwrap_used)]

mod host;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use rusqlite::{Connection, params};

/// A picture of one pixel, whose colour a number decides.
fn picture(number: i64) -> Vec<u8> {
    let mut bmp =
        b"BM\x3a\0\0\0\0\0\0\0\x36\0\0\0\x28\0\0\0\x01\0\0\0\x01\0\0\0\x01\0\x18\0".to_vec();
    bmp.resize(54, 0);
    bmp.extend((number * 2_654_435_761).to_le_bytes().iter().take(3));
    bmp.push(0);
    bmp
}

fn open(database: &Path) -> Connection {
    let connection = host::loaded(Connection::open(database).unwrap());
    connection.busy_timeout(Duration::from_secs(120)).unwrap();
    connection
}

/// A database with so many pictures and an index over them that has seen none.
fn album(database: &Path, pictures: i64) -> Connection {
    host::runtime();
    let connection = open(database);
    connection
        .execute_batch(
            "PRAGMA journal_mode = wal;
             CREATE TABLE photos(id INTEGER PRIMARY KEY, jpeg BLOB, caption TEXT);
             CREATE VIRTUAL TABLE album USING dualpath(content = 'photos', content_rowid = 'id', image = 'jpeg')",
        )
        .unwrap();
    let transaction = connection.unchecked_transaction().unwrap();
    for id in 1..=pictures {
        transaction
            .execute("INSERT INTO photos(id, jpeg) VALUES (?1, ?2)", params![id, picture(id)])
            .unwrap();
    }
    transaction.commit().unwrap();
    connection
}

fn text(connection: &Connection, sql: &str) -> String {
    connection.query_row(sql, [], |row| row.get(0)).unwrap()
}

fn number(connection: &Connection, sql: &str) -> i64 {
    connection.query_row(sql, [], |row| row.get(0)).unwrap()
}

fn count(connection: &Connection) -> i64 {
    number(connection, "SELECT count(*) FROM album")
}

fn check(connection: &Connection) -> String {
    text(connection, "SELECT dualpath_check('album')")
}

#[test]
fn a_thousand_broken_ones_among_many_are_listed() {
    let folder = tempfile::tempdir().unwrap();
    let connection = album(&folder.path().join("t.db"), 0);
    connection
        .execute_batch(
            "CREATE VIRTUAL TABLE both USING dualpath(content = 'photos', content_rowid = 'id', image = 'jpeg', text = 'caption')",
        )
        .unwrap();
    let transaction = connection.unchecked_transaction().unwrap();
    for id in 0..3_000_i64 {
        let good = picture(id);
        let jpeg = match id % 15 {
            0 => Some(good),
            1 => Some(good[..40].to_vec()),
            2 => Some(Vec::new()),
            3 => Some(b"\xff\xd8\xff\xe0 no more".to_vec()),
            4 => Some(vec![id as u8; 1_000]),
            5 => Some(b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR".to_vec()),
            _ => None,
        };
        let caption = (id % 3 == 0).then(|| format!("a dog number {id}"));
        transaction
            .execute("INSERT INTO photos VALUES (?1, ?2, ?3)", params![id, jpeg, caption])
            .unwrap();
    }
    transaction.commit().unwrap();
    let report = text(&connection, "SELECT dualpath_sync('both')");
    let of = |sql: &str| number(&connection, sql);
    assert_eq!(of("SELECT count(*) FROM both WHERE kind = 'image'"), 200, "{report}");
    assert_eq!(of("SELECT count(*) FROM both WHERE kind = 'text'"), 1_000, "{report}");
    assert_eq!(of("SELECT count(*) FROM both_skipped"), 1_000, "{report}");
    assert_eq!(of("SELECT count(DISTINCT reason) FROM both_skipped"), 5);
    assert_eq!(text(&connection, "SELECT dualpath_check('both')"), "ok");
    let sql = "SELECT content_rowid FROM both WHERE text MATCH 'a dog number 999' AND kind = 'text' ORDER BY distance LIMIT 1";
    assert_eq!(of(sql) % 3, 0);
    // Again: nothing to do, and the broken ones are not tried once more.
    let sql = "SELECT value ->> '$.encoded' = 0 AND value ->> '$.same' = 1200 AND value ->> '$.skipped' = 1000
        FROM (SELECT dualpath_sync('both') AS value)";
    assert_eq!(of(sql), 1);
}

/// Interrupts `sql` once more was encoded than a transaction holds, and answers its error.
fn interrupted(connection: &Connection, database: &Path, sql: &str) -> String {
    let handle = connection.get_interrupt_handle();
    let begun = format!(
        "SELECT count(*) FROM json_each(dualpath_progress())
         WHERE value ->> 'database' LIKE '%{}' AND value ->> 'running' AND 128 <= value ->> 'encoded'",
        database.file_name().unwrap().display()
    );
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let other = scope.spawn(|| {
            let watcher = host::memory();
            while number(&watcher, &begun) == 0 {
                assert!(!ended.load(Ordering::Relaxed), "it ended before it could be interrupted");
                std::thread::sleep(Duration::from_millis(5));
            }
            handle.interrupt();
            Instant::now()
        });
        let outcome = connection.query_row(sql, [], |_| Ok(()));
        ended.store(true, Ordering::Relaxed);
        let refused = host::message(outcome);
        // A batch of 32 is what may still be under way.
        assert!(other.join().unwrap().elapsed() < Duration::from_secs(10));
        refused
    })
}

#[test]
fn an_interrupted_statement_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("statement.db");
    let connection = album(&database, 400);
    let refused = interrupted(&connection, &database, "INSERT INTO album(album) VALUES ('sync')");
    assert!(refused.contains("interrupted"), "{refused}");
    assert!(connection.is_autocommit());
    assert_eq!((count(&connection), check(&connection).as_str()), (0, "ok"));
    assert_eq!(number(&connection, "SELECT count(*) FROM album_seen"), 0);
}

#[test]
fn an_interrupted_call_keeps_what_it_did_and_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("call.db");
    let connection = album(&database, 400);
    let refused = interrupted(&connection, &database, "SELECT dualpath_sync('album')");
    assert!(refused.contains("interrupted after "), "{refused}");
    assert!(refused.contains("of 400 rows (call it again to go on)"), "{refused}");
    let kept = count(&connection);
    assert!((64..400).contains(&kept), "{kept}");
    assert_eq!(check(&connection), "ok");
    let rest = number(&connection, "SELECT dualpath_sync('album') ->> '$.encoded'");
    assert_eq!((kept + rest, count(&connection)), (400, 400));
    assert_eq!(check(&connection), "ok");
}

const SYNCER: &str = "DUALPATH_TEST_SYNCER";

/// The process that the two tests below start; alone it does nothing.
#[test]
fn syncer() {
    let Ok(database) = std::env::var(SYNCER) else {
        return;
    };
    let connection = open(Path::new(&database));
    println!("encoded {}", number(&connection, "SELECT dualpath_sync('album') ->> '$.encoded'"));
}

fn start(database: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "syncer", "--nocapture"])
        .env(SYNCER, database)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// What a finished process says that it encoded.
fn encoded(child: Child) -> i64 {
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    let (_, rest) = said.split_once("encoded ").unwrap_or_else(|| panic!("{said}"));
    rest.split_whitespace().next().unwrap().parse().unwrap()
}

#[test]
fn a_killed_process_leaves_whole_batches_and_another_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("t.db");
    let connection = album(&database, 400);
    let mut child = start(&database);
    while count(&connection) == 0 {
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let kept = count(&connection);
    assert!((32..400).contains(&kept) && kept % 32 == 0, "{kept}");
    assert_eq!(check(&connection), "ok");
    assert_eq!(kept + encoded(start(&database)), 400);
    assert_eq!((count(&connection), check(&connection).as_str()), (400, "ok"));
}

#[test]
fn two_processes_share_the_work() {
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("t.db");
    let connection = album(&database, 400);
    let (one, two) = (start(&database), start(&database));
    assert_eq!(encoded(one) + encoded(two), 400);
    assert_eq!((count(&connection), check(&connection).as_str()), (400, "ok"));
}

/// Pictures that are on their way into the index while others change, delete and add them.
#[test]
fn changes_between_the_transactions_of_a_sync_are_seen() {
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("t.db");
    let mut connection = album(&database, 300);
    let triggers = text(&connection, "SELECT dualpath_triggers('album')");
    connection.execute_batch(&triggers).unwrap();
    let (other, mut commits) = (open(&database), 0);
    let change = move |_: &mut _, _| {
        commits += 1;
        if commits == 2 {
            let sql = "UPDATE photos SET jpeg = ?2 WHERE id = ?1";
            for id in (1..=300).step_by(7) {
                other.execute(sql, params![id, picture(1_000 + id)])?;
            }
            other.execute("DELETE FROM photos WHERE id % 11 = 3", [])?;
            other.execute("INSERT INTO photos(id, jpeg) VALUES (999, ?1)", [picture(999)])?;
        }
        Ok(())
    };
    connection.wal_hook(Some(change)).unwrap();
    connection.query_row("SELECT dualpath_sync('album')", [], |_| Ok(())).unwrap();
    connection
        .execute_batch(
            "CREATE VIRTUAL TABLE anew USING dualpath(content = 'photos', content_rowid = 'id', image = 'jpeg');
             INSERT INTO anew(anew) VALUES ('sync')",
        )
        .unwrap();
    let rows = "SELECT count(*) FROM album JOIN photos ON id = album.rowid";
    assert_eq!((number(&connection, rows), count(&connection)), (273, 273));
    let off = "SELECT count(*) FROM anew AS a JOIN album AS b ON a.rowid = b.rowid
        WHERE 1e-5 < embed_distance(a.embedding, b.embedding)";
    assert_eq!(number(&connection, off), 0);
    let same = "SELECT dualpath_sync('album') ->> '$.same'";
    assert_eq!((number(&connection, same), check(&connection).as_str()), (273, "ok"));
}

/// Without a busy timeout the second one says so at once and harms nothing.
#[test]
fn a_locked_database_is_said_to_be_locked() {
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("t.db");
    let connection = album(&database, 3);
    let other = open(&database);
    other.busy_timeout(Duration::ZERO).unwrap();
    connection.execute_batch("BEGIN IMMEDIATE").unwrap();
    for sql in ["SELECT dualpath_sync('album')", "INSERT INTO album(album) VALUES ('sync')"] {
        let refused = host::message(other.query_row(sql, [], |_| Ok(())));
        assert!(refused.contains("locked"), "{refused}");
    }
    connection.execute_batch("COMMIT").unwrap();
    other.query_row("SELECT dualpath_sync('album')", [], |_| Ok(())).unwrap();
    assert_eq!(count(&connection), 3);
}

/// Kept in step by triggers, by syncs of a few rows, or made anew: an index is the same.
#[test]
fn random_changes_leave_what_a_new_index_has() {
    host::runtime();
    arbtest::arbtest(|random| {
        let connection = host::memory();
        let index = |name: &str| {
            let sql = format!(
                "CREATE VIRTUAL TABLE {name} USING dualpath(content = 'photos', content_rowid = 'id', image = 'jpeg', text = 'caption')"
            );
            connection.execute_batch(&sql).unwrap();
        };
        connection
            .execute_batch(
                "PRAGMA recursive_triggers = on;
                 CREATE TABLE photos(id INTEGER PRIMARY KEY, jpeg, caption)",
            )
            .unwrap();
        ["triggers", "syncs"].into_iter().for_each(index);
        connection
            .execute_batch(&text(&connection, "SELECT dualpath_triggers('triggers')"))
            .unwrap();
        let (mut saved, mut others) = (0, 0);
        for _ in 0..random.int_in_range(1..=40)? {
            let (id, other) = (random.int_in_range(0..=9)?, random.int_in_range(0..=9)?);
            let jpeg = match random.int_in_range(0..=5)? {
                4 => Some(b"no picture".to_vec()),
                5 => None,
                number => Some(picture(number)),
            };
            let caption = random.choose(&[None, Some("a dog"), Some("two dogs"), Some(" ")])?;
            match random.int_in_range(0..=10)? {
                0..=2 => {
                    let sql = "INSERT OR REPLACE INTO photos VALUES (?1, ?2, ?3)";
                    connection.execute(sql, params![id, jpeg, caption]).unwrap();
                }
                3 => {
                    let sql = "UPDATE photos SET jpeg = ?2 WHERE id IN (?1, ?1 + 1)";
                    connection.execute(sql, params![id, jpeg]).unwrap();
                }
                4 => {
                    let sql = "UPDATE photos SET caption = ?2 WHERE id = ?1";
                    connection.execute(sql, params![id, caption]).unwrap();
                }
                5 => {
                    let sql = "UPDATE OR REPLACE photos SET id = ?2 WHERE id = ?1";
                    connection.execute(sql, [id, other]).unwrap();
                }
                6 => {
                    connection.execute("DELETE FROM photos WHERE id = ?1", [id]).unwrap();
                }
                7 => {
                    let sql = "INSERT INTO syncs(syncs, k) VALUES ('sync', ?1)";
                    connection.execute(sql, [1 + other]).unwrap();
                }
                8 => {
                    connection.execute_batch("SAVEPOINT s").unwrap();
                    saved += 1;
                }
                9 => {
                    // Taken back, it has SQLite connect all tables anew.
                    connection.execute_batch(&format!("CREATE TABLE other_{others}(x)")).unwrap();
                    others += 1;
                }
                _ if 0 < saved => {
                    let back = random.arbitrary()?;
                    let sql = if back { "ROLLBACK TO s; RELEASE s" } else { "RELEASE s" };
                    connection.execute_batch(sql).unwrap();
                    saved -= 1;
                }
                _ => {}
            }
        }
        index("anew");
        connection
            .execute_batch("SELECT dualpath_sync('syncs'); INSERT INTO anew(anew) VALUES ('sync')")
            .unwrap();
        let described = |name: &str| {
            let sql = format!(
                "SELECT concat_ws(' ', dualpath_check('{name}'), (SELECT group_concat(rowid) FROM {name}),
                   (SELECT group_concat(rowid || reason) FROM {name}_skipped))"
            );
            let off = format!(
                "SELECT count(*) FROM anew AS a JOIN {name} AS b ON a.rowid = b.rowid
                 WHERE 1e-5 < embed_distance(a.embedding, b.embedding)"
            );
            (text(&connection, &sql), number(&connection, &off))
        };
        let expected = described("anew");
        assert!(expected.0.starts_with("ok"), "{expected:?}");
        assert_eq!(described("triggers"), expected);
        assert_eq!(described("syncs"), expected);
        Ok(())
    })
    .budget_ms(4_000);
}

#[cfg(unix)]
struct Files {
    _temporary: tempfile::TempDir,
    root: PathBuf,
    connection: Connection,
}

#[cfg(unix)]
impl Files {
    fn write(&self, name: &str, bytes: &[u8]) {
        let path = self.root.join(name);
        std::fs::write(&path, bytes).unwrap();
        // Older than the clock's tick, so that its time is relied on.
        let hour_ago = SystemTime::now() - Duration::from_secs(3_600);
        std::fs::File::options().write(true).open(path).unwrap().set_modified(hour_ago).unwrap();
    }

    /// `encoded same skipped forgotten`
    fn sync(&self) -> String {
        self.connection
            .query_row(
                "SELECT concat_ws(' ', v ->> '$.encoded', v ->> '$.same', v ->> '$.skipped', v ->> '$.forgotten')
                 FROM (SELECT dualpath_sync('album', ?1) AS v)",
                [self.root.to_str().unwrap()],
                |row| row.get(0),
            )
            .unwrap()
    }

    fn reason(&self, path: &str) -> String {
        self.connection
            .query_row(
                "SELECT reason FROM album_skipped JOIN photos ON id = content_rowid WHERE file = ?1",
                [path],
                |row| row.get(0),
            )
            .unwrap_or_default()
    }
}

#[cfg(unix)]
fn files(paths: &[&str]) -> Files {
    host::runtime();
    let temporary = tempfile::tempdir().unwrap();
    let root = temporary.path().join("root");
    std::fs::create_dir(&root).unwrap();
    let connection = open(&temporary.path().join("t.db"));
    connection
        .execute_batch(
            "CREATE TABLE photos(id INTEGER PRIMARY KEY, file TEXT);
             CREATE VIRTUAL TABLE album USING dualpath(content = 'photos', content_rowid = 'id', path = 'file')",
        )
        .unwrap();
    for path in paths {
        connection.execute("INSERT INTO photos(file) VALUES (?1)", [path]).unwrap();
    }
    Files { _temporary: temporary, root, connection }
}

#[test]
#[cfg(unix)]
fn files_are_known_by_size_time_and_digest() {
    let files = files(&["a.bmp", "b.bmp"]);
    files.write("a.bmp", &picture(1));
    files.write("b.bmp", &picture(2));
    assert_eq!(files.sync(), "2 0 0 0");
    assert_eq!(files.sync(), "0 2 0 0");
    // Another time with the same bytes is nothing new; the same size with other bytes is.
    files.write("a.bmp", &picture(1));
    files.write("b.bmp", &picture(3));
    assert_eq!(files.sync(), "1 1 0 0");
    let sql = "SELECT embed_distance(embedding, embed_image(?1)) FROM album WHERE rowid = 2";
    let distance: f64 = files.connection.query_row(sql, [picture(3)], |row| row.get(0)).unwrap();
    assert!(distance.abs() < 1e-5, "{distance}");
    // A name that points to another file of the same bytes; a file that is gone, and comes back.
    files.write("c.bmp", &picture(1));
    files.connection.execute("UPDATE photos SET file = 'c.bmp' WHERE id = 1", []).unwrap();
    std::fs::remove_file(files.root.join("b.bmp")).unwrap();
    assert_eq!(files.sync(), "0 1 1 0");
    assert!(files.reason("b.bmp").contains("No such file"));
    assert_eq!(count(&files.connection), 1);
    files.write("b.bmp", &picture(3));
    assert_eq!(files.sync(), "1 1 0 0");
    assert_eq!(files.reason("b.bmp"), "");
    files.connection.execute("DELETE FROM photos WHERE id = 1", []).unwrap();
    assert_eq!(files.sync(), "0 1 0 1");
    assert_eq!((count(&files.connection), check(&files.connection).as_str()), (1, "ok"));
}

/// A file that was written a moment ago may be written again without another time.
#[test]
#[cfg(unix)]
fn a_file_in_the_making_is_looked_at_again() {
    let files = files(&["a.bmp"]);
    std::fs::write(files.root.join("a.bmp"), picture(1)).unwrap();
    assert_eq!(files.sync(), "1 0 0 0");
    let seen = number(&files.connection, "SELECT modified IS NULL FROM album_seen");
    assert_eq!(seen, 1);
    std::fs::write(files.root.join("a.bmp"), picture(2)).unwrap();
    assert_eq!(files.sync(), "1 0 0 0");
}

#[test]
#[cfg(unix)]
fn what_is_no_file_below_the_folder_is_listed() {
    use std::os::unix::fs::symlink;
    let files = files(&[
        "a.bmp",
        "deep/a.bmp",
        "folder",
        "fifo",
        "loop",
        "out.bmp",
        "door/a.bmp",
        "/etc/passwd",
        "/dev/zero",
        "../t.db",
        "missing.bmp",
        "broken.bmp",
        "inside.bmp",
        "",
    ]);
    let outside = files.root.parent().unwrap();
    std::fs::write(outside.join("a.bmp"), picture(9)).unwrap();
    for folder in ["deep", "folder"] {
        std::fs::create_dir(files.root.join(folder)).unwrap();
    }
    files.write("a.bmp", &picture(1));
    files.write("deep/a.bmp", &picture(2));
    files.write("broken.bmp", b"BM and no more");
    assert!(Command::new("mkfifo").arg(files.root.join("fifo")).status().unwrap().success());
    symlink("loop", files.root.join("loop")).unwrap();
    symlink(outside.join("a.bmp"), files.root.join("out.bmp")).unwrap();
    symlink(outside, files.root.join("door")).unwrap();
    symlink("deep/a.bmp", files.root.join("inside.bmp")).unwrap();
    assert_eq!(files.sync(), "3 0 11 0");
    for (path, words) in [
        ("folder", "it is a folder"),
        ("fifo", "it is no regular file"),
        ("loop", "symbolic links"),
        ("out.bmp", "it lies outside the folder"),
        ("door/a.bmp", "it lies outside the folder"),
        ("/etc/passwd", "it lies outside the folder"),
        ("/dev/zero", "it lies outside the folder"),
        ("../t.db", "the path holds '..'"),
        ("missing.bmp", "No such file"),
        ("broken.bmp", "the picture cannot be read"),
        ("", "the path is empty"),
    ] {
        let reason = files.reason(path);
        assert!(reason.contains(words), "{path}: {reason}");
    }
    assert_eq!(files.sync(), "0 3 11 0");
    assert_eq!(check(&files.connection), "ok");
}

/// Each damage, and what the check says of it.
const DAMAGES: &[(&str, &str)] = &[
    ("DELETE FROM album_seen WHERE rowid = 2", "row 2 is in the index, but was never seen"),
    ("DELETE FROM album_skipped", "row 4 was seen, but is neither in the index nor skipped"),
    ("INSERT INTO album_skipped VALUES (2, 2, 'image', 'x')", "row 2 is in the index and skipped"),
    (
        "INSERT INTO album_skipped VALUES (9, 9, 'image', 'x')",
        "row 9 is skipped, but was never seen",
    ),
    ("INSERT INTO album_seen VALUES (-9, 'x', 'y', 'z', 7)", "row -9 was seen, but is neither"),
    ("UPDATE album_seen SET size = 'x', digest = 7, path = x'ff', modified = 1e300", "ok"),
    ("INSERT INTO album_config VALUES ('stopped', 9223372036854775807)", "ok"),
    ("DROP TABLE album_seen", "album_seen"),
];

#[test]
fn damage_is_reported_and_a_sync_goes_on_or_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let sound = folder.path().join("sound.db");
    let connection = album(&sound, 3);
    connection
        .execute_batch("INSERT INTO photos(id, jpeg) VALUES (4, 'x'); INSERT INTO album(album) VALUES ('sync'); PRAGMA journal_mode = delete")
        .unwrap();
    drop(connection);
    for (at, (damage, words)) in DAMAGES.iter().enumerate() {
        let database = folder.path().join(format!("{at}.db"));
        std::fs::copy(&sound, &database).unwrap();
        Connection::open(&database).unwrap().execute_batch(damage).unwrap();
        let connection = open(&database);
        let said = connection
            .query_row("SELECT dualpath_check('album')", [], |row| row.get::<_, String>(0))
            .unwrap_or_else(|err| err.to_string());
        assert!(said.contains(words), "{damage}: {said}");
        for sql in [
            "INSERT INTO album(album, k) VALUES ('sync', 2)",
            "INSERT INTO album(content_rowid) VALUES (2)",
            "SELECT dualpath_sync('album')",
            "INSERT INTO album(album) VALUES ('rebuild')",
        ] {
            if let Err(err) = connection.execute_batch(sql) {
                assert!(damage.contains("DROP"), "{damage}: {sql}: {err}");
            }
        }
        if !damage.contains("DROP") {
            assert_eq!((count(&connection), check(&connection).as_str()), (3, "ok"), "{damage}");
        }
        connection.execute_batch("DROP TABLE album").unwrap();
    }
    for damage in [
        "DELETE FROM album_config WHERE key = 'content'",
        "DELETE FROM album_config WHERE key = 'image'",
        "UPDATE album_config SET value = 7 WHERE key = 'content_rowid'",
        "INSERT INTO album_config VALUES ('path', 'jpeg')",
    ] {
        let database = folder.path().join("config.db");
        std::fs::copy(&sound, &database).unwrap();
        Connection::open(&database).unwrap().execute_batch(damage).unwrap();
        let refused = host::message(open(&database).prepare("SELECT * FROM album").map(|_| ()));
        assert!(refused.contains("lacks 'content'"), "{damage}: {refused}");
    }
}

/// Triggers on shadow tables, which only somebody who means harm makes, do not run in circles.
#[test]
fn a_trigger_on_shadow_tables_does_not_run_for_ever() {
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("t.db");
    drop(album(&database, 5));
    for body in [
        "INSERT INTO album(album) VALUES ('sync')",
        "INSERT INTO album(content_rowid) VALUES (new.rowid + 1)",
        "INSERT INTO album(album) VALUES ('rebuild')",
    ] {
        Connection::open(&database)
            .unwrap()
            .execute_batch(&format!(
                "DROP TRIGGER IF EXISTS harm; CREATE TRIGGER harm AFTER INSERT ON album_seen BEGIN {body}; END"
            ))
            .unwrap();
        let connection = open(&database);
        connection.execute_batch("PRAGMA recursive_triggers = on").unwrap();
        for sql in ["INSERT INTO album(album) VALUES ('sync')", "SELECT dualpath_sync('album')"] {
            let refused = host::message(connection.query_row(sql, [], |_| Ok(())));
            assert!(refused.contains("its shadow tables must have no triggers"), "{refused}");
        }
        assert_eq!((count(&connection), check(&connection).as_str()), (0, "ok"));
    }
}

/// A file of the first release, whose tables are over no other.
#[test]
fn a_database_of_format_1_opens() {
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("t.db");
    let old = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/databases/format-1.db");
    std::fs::copy(old, &database).unwrap();
    let connection = open(&database);
    let found = |sql: &str| text(&connection, sql);
    assert_eq!(found("SELECT dualpath_check('t') || dualpath_check('album')"), "okok");
    let nearest = "SELECT rowid || embed_to_json(embedding) FROM t WHERE embedding MATCH embed_from_json('[0,1]') ORDER BY distance LIMIT 1";
    assert_eq!(found(nearest), "2[0,1]");
    connection
        .execute_batch(
            "INSERT INTO t(embedding) VALUES (embed_from_json('[1,1]'));
             DELETE FROM t WHERE rowid = 1;
             ALTER TABLE t RENAME TO u;
             INSERT INTO u(u) VALUES ('integrity-check');
             DROP TABLE u;
             DROP TABLE album",
        )
        .unwrap();
    assert_eq!(found("SELECT group_concat(name) FROM sqlite_schema"), "t_seen");
}
