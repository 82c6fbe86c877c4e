//! Pictures, sentences, model folders and ONNX Runtime, as an application meets them.
#![allow(clippy::unwrap_used)]

mod host;

use std::path::{Path, PathBuf};

use rusqlite::{Connection, params};

/// Real files of several kinds, each a picture.
const PICTURES: &[&str] = &[
    "animated.webp",
    "cmyk.jpg",
    "lossy.webp",
    "palette.png",
    "progressive.jpg",
    "two-colours.png",
];

fn picture(name: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/pictures").join(name)).unwrap()
}

fn text(connection: &Connection, sql: &str) -> String {
    connection.query_row(sql, [], |row| row.get(0)).unwrap()
}

fn count(connection: &Connection) -> i64 {
    connection.query_row("SELECT count(*) FROM album", [], |row| row.get(0)).unwrap()
}

fn album() -> Connection {
    host::runtime();
    let connection = host::memory();
    connection.execute_batch("CREATE VIRTUAL TABLE album USING dualpath").unwrap();
    connection
}

/// One picture a statement, or all in one: the same embeddings, found by the same bytes.
#[test]
fn pictures_go_in_and_are_found() {
    let connection = album();
    let insert = "INSERT INTO album(rowid, image) VALUES (?1, ?2)";
    for (row, name) in PICTURES.iter().enumerate() {
        connection.execute(insert, params![row as i64, picture(name)]).unwrap();
    }
    connection.execute_batch("BEGIN").unwrap();
    for (row, name) in PICTURES.iter().enumerate() {
        connection.execute(insert, params![100 + row as i64, picture(name)]).unwrap();
    }
    connection.execute_batch("COMMIT").unwrap();
    for (row, name) in PICTURES.iter().enumerate() {
        let rows: Vec<i64> = connection
            .prepare("SELECT rowid FROM album WHERE image MATCH ?1 AND distance < 1e-4 ORDER BY distance")
            .unwrap()
            .query_map([picture(name)], |it| it.get(0))
            .unwrap()
            .map(Result::unwrap)
            .collect();
        for row in [row as i64, 100 + row as i64] {
            assert!(rows.contains(&row), "{name}: {rows:?}");
        }
        let near: f64 = connection
            .query_row(
                "SELECT embed_distance(embedding, embed_image(?1)) FROM album WHERE rowid = ?2",
                params![picture(name), row as i64],
                |it| it.get(0),
            )
            .unwrap();
        assert!(near.abs() < 1e-5, "{name}: {near}");
    }
}

/// Large JPEGs are decoded at a part of their size. Beside them: the same pixels in full size, as
/// training sees them, in a format that has no such way. Int8 arithmetic answers the smallest change
/// of pixels by more than 0.001 at times (two decoders in full size differ as much), so what one step
/// of a byte up or down does to the same photograph is measured beside it.
#[test]
fn a_part_of_the_size_has_the_same_embedding() {
    host::runtime();
    let connection = host::memory();
    let mut photographs: Vec<image::RgbImage> = vec![scene()];
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("demo/photos");
    for name in ["china.jpg", "coffee.png", "chelsea.png"] {
        match image::open(demo.join(name)) {
            Ok(photograph) => photographs.push(photograph.into_rgb8()),
            Err(_) => println!("skipped: no {name} (scripts/photos takes it out of a package)"),
        }
    }
    let apart = |a: &[u8], b: &[u8]| -> f64 {
        let sql = "SELECT embed_distance(embed_image(?1), embed_image(?2))";
        connection.query_row(sql, params![a, b], |it| it.get(0)).unwrap()
    };
    let encoded = |it: &image::RgbImage, format| {
        let mut bytes = std::io::Cursor::new(Vec::new());
        it.write_to(&mut bytes, format).unwrap();
        bytes.into_inner()
    };
    let (jpeg, whole) = (image::ImageFormat::Jpeg, image::ImageFormat::Bmp);
    // In full, then at 1/2, 1/4 and 1/8, with sides of two, three and other times the model's 240.
    let sizes = [
        (460, 460),
        (901, 677),
        (1800, 470),
        (960, 960),
        (1000, 1500),
        (1440, 1447),
        (2048, 1365),
        (2000, 1900),
        (1920, 1927),
        (2880, 1920),
        (3000, 2250),
        (3840, 3847),
        (4321, 5760),
    ];
    for (at, photograph) in photographs.iter().enumerate() {
        let (mut most, mut most_of_one_step) = (0.0, 0.0);
        for (width, height) in sizes {
            let filter = image::imageops::FilterType::CatmullRom;
            let enlarged = image::imageops::resize(photograph, width, height, filter);
            let file = encoded(&enlarged, jpeg);
            let decoded = image::load_from_memory(&file).unwrap().into_rgb8();
            let mut stirred = decoded.clone();
            for (x, y, pixel) in stirred.enumerate_pixels_mut() {
                let step = (x * 7919 + y * 104_729).wrapping_mul(2_654_435_761) >> 30;
                pixel.0 = pixel
                    .0
                    .map(|it| it.saturating_add((step / 2) as u8).saturating_sub((step & 1) as u8));
            }
            let decoded = encoded(&decoded, whole);
            let distance = apart(&file, &decoded);
            let least = apart(&encoded(&stirred, whole), &decoded);
            let what = format!("photograph {at} at {width} x {height}");
            println!("{what}: cosine {:.6}, of one step {:.6}", 1.0 - distance, 1.0 - least);
            (most, most_of_one_step) =
                (f64::max(most, distance), f64::max(most_of_one_step, least));
        }
        // The worst beside the worst: one distance alone is as much chance as the next.
        let bound = f64::max(0.001, 2.0 * most_of_one_step);
        assert!(most <= bound, "photograph {at}: {most}, of one step {most_of_one_step}");
    }
}

/// Something to look at where no photographs are at hand.
fn scene() -> image::RgbImage {
    image::RgbImage::from_fn(640, 480, |x, y| {
        let (u, v) = (x as f32 / 640.0, y as f32 / 480.0);
        let grain = ((x * 7919 + y * 104_729).wrapping_mul(2_654_435_761) >> 27) as f32;
        let sky = [90.0 + 60.0 * v, 140.0 + 40.0 * v, 230.0 - 50.0 * v];
        let meadow = [60.0 + 30.0 * (40.0 * u).sin(), 130.0 + 40.0 * (90.0 * v).sin(), 50.0];
        let dog = (u - 0.4).powi(2) + 2.0 * (v - 0.7).powi(2) < 0.02;
        let colour = if dog {
            [120.0, 70.0, 30.0]
        } else if v < 0.5 {
            sky
        } else {
            meadow
        };
        image::Rgb(colour.map(|it| (it + grain) as u8))
    })
}

#[test]
fn a_broken_picture_fails_its_own_insert() {
    let connection = album();
    let whole = picture("progressive.jpg");
    let half = whole[..whole.len() / 2].to_vec();
    let insert = "INSERT INTO album(rowid, image) VALUES (?1, ?2)";
    connection.execute_batch("BEGIN").unwrap();
    connection.execute(insert, params![1, &whole]).unwrap();
    for (broken, words) in [
        (half, "the JPEG is cut off before its end"),
        (Vec::new(), "it is empty"),
        (b"not a picture at all".to_vec(), "no known signature"),
        (header(30_000, 30_000), "30000 x 30000 pixels (the limit is"),
        (header(9, 0), "the picture cannot be read"),
    ] {
        let refused = host::message(connection.execute(insert, params![2, broken]));
        assert!(refused.contains(words), "{refused}");
    }
    connection.execute_batch("COMMIT").unwrap();
    assert_eq!(count(&connection), 1);
    assert_eq!(text(&connection, "SELECT dualpath_check('album')"), "ok");
}

/// A sound header before a damaged body, met when the batch is decoded: the statement that made
/// it be encoded fails, names the row, and the transaction can still be given up.
#[test]
fn a_picture_that_breaks_late_names_its_row() {
    let connection = album();
    let mut late = picture("palette.png");
    let at = late.windows(4).position(|it| it == b"IDAT").unwrap();
    late[at + 6] ^= 0xFF;
    late[at + 7] ^= 0xFF;
    connection.execute_batch("BEGIN").unwrap();
    let insert = "INSERT INTO album(rowid, image) VALUES (?1, ?2)";
    connection.execute(insert, params![1, picture("palette.png")]).unwrap();
    connection.execute(insert, params![77, late]).unwrap();
    let refused = host::message(
        connection.query_row("SELECT count(*) FROM album", [], |row| row.get::<_, i64>(0)),
    );
    assert!(refused.contains("77") && refused.contains("cannot be read"), "{refused}");
    connection.execute_batch("ROLLBACK").unwrap();
    assert_eq!(count(&connection), 0);
}

/// A PNG of that size that ends where its pixels begin.
fn header(width: u32, height: u32) -> Vec<u8> {
    let mut png = b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR".to_vec();
    png.extend(big_endian(width));
    png.extend(big_endian(height));
    png.extend([8, 2, 0, 0, 0]);
    let crc = png[12..].iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xEDB8_8320 * (crc & 1)))
    });
    png.extend(big_endian(!crc));
    png.extend(b"\0\0\0\x02IDAT");
    png
}

fn big_endian(number: u32) -> [u8; 4] {
    let mut bytes = number.to_le_bytes();
    bytes.reverse();
    bytes
}

/// The largest resident set of this process so far, in KiB.
#[cfg(target_os = "linux")]
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|it| it.starts_with("VmHWM")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
#[cfg(target_os = "linux")]
fn a_huge_header_takes_no_memory() {
    let connection = album();
    let before = peak();
    for _ in 0..20 {
        let outcome =
            connection.query_row("SELECT embed_image(?1)", [header(30_000, 30_000)], |_| Ok(()));
        host::message(outcome);
    }
    // 30,000 x 30,000 x 3 are 2.6 GB; the other tests of this process share the figure.
    assert!(peak() - before < 400 * 1024, "{} KiB", peak() - before);
}

#[test]
fn four_threads_encode_at_once() {
    host::runtime();
    let expected: Vec<u8> = host::memory()
        .query_row("SELECT embed_text('two dogs in the snow')", [], |row| row.get(0))
        .unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let expected = &expected;
            scope.spawn(move || {
                let connection = album();
                for turn in 0..10_i64 {
                    let name = PICTURES[(thread + turn as usize) % PICTURES.len()];
                    connection
                        .execute("INSERT INTO album(image) VALUES (?1)", [picture(name)])
                        .unwrap();
                    let sentence = format!("a dog number {turn} of thread {thread}");
                    connection
                        .query_row(
                            "SELECT rowid FROM album WHERE text MATCH ?1 ORDER BY distance LIMIT 1",
                            [sentence],
                            |row| row.get::<_, i64>(0),
                        )
                        .unwrap();
                    let got: Vec<u8> = connection
                        .query_row("SELECT embed_text('two dogs in the snow')", [], |row| {
                            row.get(0)
                        })
                        .unwrap();
                    assert!(got == *expected);
                }
                assert_eq!(count(&connection), 10);
            });
        }
    });
}

/// The library alone in a folder: everything but encoding works, encoding says what to do.
#[test]
fn without_onnx_runtime_only_encoding_fails() {
    if std::env::var_os("ORT_DYLIB_PATH").is_some() {
        println!("skipped: ORT_DYLIB_PATH is set");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let library = folder.path().join(host::library().file_name().unwrap());
    std::fs::copy(host::library(), &library).unwrap();
    let connection = Connection::open_in_memory().unwrap();
    // SAFETY: the library is ours, built a moment ago.
    #[allow(unsafe_code)]
    unsafe {
        let guard = rusqlite::LoadExtensionGuard::new(&connection).unwrap();
        connection.load_extension(&library, None::<&str>).unwrap();
        drop(guard);
    }
    connection
        .execute_batch(
            "CREATE VIRTUAL TABLE album USING dualpath;
             CREATE VIRTUAL TABLE ready USING dualpath(dimensions = 2);
             INSERT INTO ready(embedding) VALUES (embed_from_json('[1,0]')), (embed_from_json('[0,1]'))",
        )
        .unwrap();
    let sql = "SELECT rowid FROM ready WHERE embedding MATCH embed_from_json('[1,9]') ORDER BY distance LIMIT 1";
    assert_eq!(connection.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap(), 2);
    for sql in [
        "SELECT embed_text('a dog')",
        "INSERT INTO album(text) VALUES ('a dog')",
        "SELECT rowid FROM album WHERE text MATCH 'a dog'",
    ] {
        let refused = host::message(connection.query_row(sql, [], |_| Ok(())));
        for words in
            ["ONNX Runtime is missing", "scripts/onnxruntime", &folder.path().display().to_string()]
        {
            assert!(refused.contains(words), "{sql}: {refused}");
        }
    }
    assert_eq!(count(&connection), 0);
    // A sync fails too, instead of listing every row as broken.
    connection
        .execute_batch(
            "CREATE TABLE photos(jpeg BLOB, caption TEXT);
             CREATE VIRTUAL TABLE over USING dualpath(content = 'photos', image = 'jpeg', text = 'caption')",
        )
        .unwrap();
    let insert = "INSERT INTO photos VALUES (?1, 'a dog')";
    connection.execute(insert, [picture("palette.png")]).unwrap();
    for sql in ["INSERT INTO over(over) VALUES ('sync')", "SELECT dualpath_sync('over')"] {
        let refused = host::message(connection.query_row(sql, [], |_| Ok(())));
        assert!(refused.contains("ONNX Runtime is missing"), "{sql}: {refused}");
    }
    assert_eq!(
        text(&connection, "SELECT count(*) || dualpath_check('over') FROM over_skipped"),
        "0ok"
    );
    let debug = text(&connection, "SELECT dualpath_debug()");
    assert!(debug.contains("no library found"), "{debug}");
    let refused = host::message(connection.query_row(
        "SELECT dualpath_runtime('/nowhere/lib.so')",
        [],
        |_| Ok(()),
    ));
    assert!(refused.contains("'/nowhere/lib.so' is no file"), "{refused}");
}

const DEVICE: &str = "DUALPATH_TEST_DEVICE";

/// The process that the test below starts, as a device is chosen once; alone it does nothing.
#[test]
fn on_a_device() {
    let Ok(device) = std::env::var(DEVICE) else {
        return;
    };
    // Without `host::runtime`, which encodes.
    let connection = host::memory();
    connection.execute_batch("CREATE VIRTUAL TABLE album USING dualpath").unwrap();
    let sql = "SELECT dualpath_device(?1)";
    let set = connection.query_row(sql, [&device], |row| row.get::<_, String>(0)).unwrap();
    assert_eq!(set, device);
    let picture = picture("progressive.jpg");
    let outcomes = [
        connection.query_row("SELECT embed_text('a dog')", [], |_| Ok(())),
        connection.query_row("SELECT embed_image(?1)", [&picture], |_| Ok(())),
        connection.execute("INSERT INTO album(image) VALUES (?1)", [&picture]).map(|_| ()),
    ];
    println!("outcomes {outcomes:?}");
    println!("rows {}", count(&connection));
    // The connection lives, and nothing is half-written.
    assert_eq!(text(&connection, "SELECT dualpath_check('album')"), "ok");
    println!("debug {}", text(&connection, "SELECT dualpath_debug()"));
    if outcomes[0].is_ok() {
        let refused =
            host::message(
                connection.query_row("SELECT dualpath_device('openvino')", [], |_| Ok(())),
            );
        assert!(refused.contains("choose the device before the first encoding"), "{refused}");
    } else {
        text(&connection, "SELECT dualpath_device('cpu')");
        connection.query_row("SELECT embed_text('a dog')", [], |_| Ok(())).unwrap();
    }
}

fn said_on(device: &str) -> String {
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "on_a_device", "--nocapture"])
        .env(DEVICE, device)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    said
}

/// Never the CPU in silence where another device was asked for.
#[test]
fn a_device_that_is_not_there_is_an_error() {
    host::runtime();
    for (device, needs) in [
        ("cuda", "an NVIDIA driver"),
        ("coreml", "macOS"),
        ("directml", "Windows"),
        ("openvino", "onnxruntime-openvino"),
    ] {
        let said = said_on(device);
        if said.contains("outcomes [Ok") {
            println!("skipped: this machine has {device}");
            continue;
        }
        let error = format!("the device '{device}' cannot be used: ");
        assert_eq!(said.matches(&error).count(), 3, "{said}");
        for words in [needs, "libonnxruntime", "dualpath_device('cpu') goes without"] {
            assert!(said.contains(words), "{device}, {words}: {said}");
        }
        assert!(said.contains("rows 0"), "{said}");
    }
}

#[test]
fn the_report_says_what_runs_where() {
    host::runtime();
    let said = said_on("cpu");
    assert!(said.contains("rows 1") && said.contains(r#""image":{"device":"cpu""#), "{said}");
    let said = said_on("auto");
    assert!(said.contains("rows 1") && said.contains(r#""passed_over":["#), "{said}");
}

struct Folder {
    _temporary: tempfile::TempDir,
    path: PathBuf,
}

/// A copy of the built-in model's folder.
fn folder() -> Folder {
    let temporary = tempfile::tempdir().unwrap();
    let path = temporary.path().to_owned();
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/default");
    for file in ["dualpath.json", "image.onnx", "text.onnx", "tokenizer.json"] {
        std::fs::copy(from.join(file), path.join(file)).unwrap();
    }
    Folder { _temporary: temporary, path }
}

impl Folder {
    fn rewrite(&self, from: &str, to: &str) {
        let manifest = self.path.join("dualpath.json");
        let text = std::fs::read_to_string(&manifest).unwrap();
        assert!(text.contains(from), "dualpath.json has no {from}");
        std::fs::write(manifest, text.replacen(from, to, 1)).unwrap();
    }

    fn load(&self, connection: &Connection, name: &str) -> rusqlite::Result<usize> {
        connection.execute(
            "INSERT INTO dualpath_models(name, path) VALUES (?1, ?2)",
            [name, self.path.to_str().unwrap()],
        )
    }
}

#[test]
fn a_model_folder_is_loaded_used_and_dropped() {
    host::runtime();
    let connection = host::memory();
    let folder = folder();
    folder.load(&connection, "copied").unwrap();
    let same = "SELECT (SELECT digest FROM dualpath_models WHERE name = 'copied') = (SELECT digest FROM dualpath_models WHERE name = 'default')
        AND embed_text('a dog') = embed_text('a dog', 'copied')";
    assert!(connection.query_row(same, [], |row| row.get::<_, bool>(0)).unwrap());
    // Again is no error; another model under a name that is taken is one.
    folder.load(&connection, "copied").unwrap();
    folder.rewrite("0.5", "0.25");
    for taken in ["copied", "default"] {
        let refused = host::message(folder.load(&connection, taken));
        assert!(
            refused.contains(&format!("a model named '{taken}' is loaded already")),
            "{refused}"
        );
    }
    connection
        .execute_batch("CREATE VIRTUAL TABLE album USING dualpath(model = 'copied')")
        .unwrap();
    connection.execute("DELETE FROM dualpath_models WHERE name = 'copied'", []).unwrap();
    let refused =
        host::message(connection.query_row("SELECT embed_text('a dog', 'copied')", [], |_| Ok(())));
    assert!(refused.contains("no model is named 'copied'"), "{refused}");
    // An open table keeps its model.
    connection.execute_batch("INSERT INTO album(text) VALUES ('a dog')").unwrap();
    let refused = host::message(connection.execute("DELETE FROM dualpath_models", []));
    assert!(refused.contains("default"), "{refused}");
    let refused = host::message(connection.execute("UPDATE dualpath_models SET name = 'x'", []));
    assert!(refused.contains("delete it and insert it again"), "{refused}");
}

#[test]
fn a_table_of_another_model_of_that_name_says_which() {
    host::runtime();
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("album.db");
    let old = host::open(&file);
    let folder = folder();
    folder.load(&old, "named").unwrap();
    old.execute_batch("CREATE VIRTUAL TABLE album USING dualpath(model = 'named')").unwrap();
    old.execute("UPDATE album_config SET value = 'ab12' WHERE key = 'digest'", []).unwrap();
    drop(old);
    let connection = host::open(&file);
    let asked = "SELECT rowid FROM album WHERE text MATCH 'a dog' ORDER BY distance LIMIT 1";
    let refused = host::message(connection.query_row(asked, [], |_| Ok(())));
    for part in
        ["model 'named' with digest ab12, the loaded one has", "load the folder of the first"]
    {
        assert!(refused.contains(part), "{refused}");
    }
    connection.execute("DELETE FROM dualpath_models WHERE name = 'named'", []).unwrap();
}

/// What triggers took in waits for its model: a commit without it would leave the index behind.
#[test]
fn what_waits_outlasts_a_missing_model() {
    host::runtime();
    let (connection, other) = (host::memory(), host::memory());
    let folder = folder();
    folder.rewrite("0.5", "0.25");
    folder.load(&connection, "mine").unwrap();
    let table = "CREATE TABLE photos(id INTEGER PRIMARY KEY, jpeg BLOB);
        CREATE VIRTUAL TABLE album USING dualpath(content = 'photos', content_rowid = 'id', image = 'jpeg', model = 'mine');
        BEGIN";
    connection.execute_batch(table).unwrap();
    let take_in = || {
        connection
            .execute("INSERT INTO photos(jpeg) VALUES (?1)", [picture("progressive.jpg")])
            .unwrap();
        connection.execute_batch("INSERT INTO album(content_rowid) VALUES (1)").unwrap();
        // On this connection the statement itself would have what waits encoded first.
        other.execute("DELETE FROM dualpath_models WHERE name = 'mine'", []).unwrap();
    };
    take_in();
    for _ in 0..2 {
        let refused = host::message(connection.query_row("SELECT * FROM album", [], |_| Ok(())));
        assert!(refused.contains("which is not loaded (INSERT INTO dualpath_models"), "{refused}");
    }
    folder.load(&other, "mine").unwrap();
    assert_eq!(count(&connection), 1);
    connection.execute_batch("ROLLBACK; BEGIN").unwrap();
    take_in();
    let refused = host::message(connection.execute_batch("COMMIT"));
    assert!(refused.contains("which is not loaded"), "{refused}");
    if !connection.is_autocommit() {
        connection.execute_batch("ROLLBACK").unwrap();
    }
    let left = connection.query_row("SELECT count(*) FROM photos", [], |row| row.get(0));
    assert_eq!((left.unwrap(), count(&connection)), (0_i64, 0));
}

#[test]
fn a_bad_model_folder_is_refused() {
    host::runtime();
    let connection = host::memory();
    let refused = |change: &dyn Fn(&Folder), words: &str| {
        let folder = folder();
        change(&folder);
        let refused = host::message(folder.load(&connection, "bad"));
        assert!(refused.contains(words), "expected '{words}': {refused}");
        assert!(
            refused.contains(folder.path.to_str().unwrap()) || refused.contains("bad"),
            "{refused}"
        );
    };
    for file in ["dualpath.json", "image.onnx", "text.onnx", "tokenizer.json"] {
        refused(&|it| std::fs::remove_file(it.path.join(file)).unwrap(), file);
    }
    for file in ["image.onnx", "text.onnx", "tokenizer.json"] {
        let change = |it: &Folder| {
            let path = it.path.join(file);
            let mut bytes = std::fs::read(&path).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            std::fs::write(path, bytes).unwrap();
        };
        refused(&change, &format!("{file} has digest"));
    }
    refused(&|it| it.rewrite("\"format\": 1", "\"format\": 2"), "has format 2, expected 1");
    refused(&|it| it.rewrite("\"size\": 240", "\"size\": 200"), "image.onnx");
    refused(&|it| it.rewrite("\"dimension\": 512", "\"dimension\": 256"), "image.onnx");
    refused(&|it| it.rewrite("\"dimension\": 512", "\"dimension\": 0"), "dimension is 0");
    refused(&|it| it.rewrite("\"size\"", "\"sizes\""), "sizes");
    refused(&|it| it.rewrite("{", "["), "dualpath.json");
    let swapped = |it: &Folder| {
        let (image, text) = (it.path.join("image.onnx"), it.path.join("text.onnx"));
        let bytes = std::fs::read(&image).unwrap();
        std::fs::copy(&text, &image).unwrap();
        std::fs::write(text, bytes).unwrap();
    };
    refused(&swapped, "image.onnx has digest");
    let nowhere = host::message(
        connection
            .execute("INSERT INTO dualpath_models(name, path) VALUES ('bad', '/nowhere')", []),
    );
    assert!(nowhere.contains("/nowhere"), "{nowhere}");
    let names = text(&connection, "SELECT group_concat(name) FROM dualpath_models");
    assert!(!names.contains("bad"), "{names}");
}
