//! The tool as people run it: what it answers, what it leaves, how it ends.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// A picture of one pixel, whose colour a number decides.
fn picture(number: u32) -> Vec<u8> {
    let mut bmp =
        b"BM\x3a\0\0\0\0\0\0\0\x36\0\0\0\x28\0\0\0\x01\0\0\0\x01\0\0\0\x01\0\x18\0".to_vec();
    bmp.resize(54, 0);
    bmp.extend(number.wrapping_mul(2_654_435_761).to_le_bytes());
    bmp
}

fn tool(arguments: &[&str], at: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dualpath"));
    command.args(arguments).current_dir(at).stdin(Stdio::null());
    command
}

fn run(arguments: &[&str], at: &Path) -> Output {
    tool(arguments, at).output().unwrap()
}

/// What it said, if it ended as it should.
#[track_caller]
fn ended(output: Output, status: i32) -> (String, String) {
    let said = |it: Vec<u8>| String::from_utf8(it).unwrap();
    let (out, err) = (said(output.stdout), said(output.stderr));
    assert_eq!(output.status.code(), Some(status), "{out}\n{err}");
    (out, err)
}

#[track_caller]
fn json(arguments: &[&str], at: &Path) -> serde_json::Value {
    serde_json::from_str(&ended(run(arguments, at), 0).0).unwrap()
}

/// A folder with so many pictures.
fn folder(pictures: u32) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for number in 0..pictures {
        std::fs::write(folder.path().join(format!("{number:04}.bmp")), picture(number)).unwrap();
    }
    folder
}

#[test]
fn the_device_is_chosen_and_never_another_in_silence() {
    let folder = folder(40);
    let at = folder.path();
    let unknown = ended(run(&["index", "--device", "tpu"], at), 2).1;
    assert!(unknown.contains("'tpu'") && unknown.contains("openvino"), "{unknown}");
    let cuda = run(&["index", "--device", "cuda", "--json"], at);
    if cuda.status.success() {
        println!("skipped: this machine has cuda");
    } else {
        let missing = ended(cuda, 2).1;
        assert!(missing.contains("the device 'cuda' cannot be used"), "{missing}");
        assert!(missing.contains("an NVIDIA driver"), "{missing}");
    }
    // Nothing was lost or left out by that.
    let auto = json(&["index", "--device", "auto", "--json"], at);
    let done = |key: &str| auto[key].as_i64().unwrap_or(0);
    assert_eq!((done("encoded") + done("same"), done("pictures")), (40, 40), "{auto}");
    assert_eq!((&auto["left_out"], &auto["complete"]), (&serde_json::json!([]), &true.into()));
}

#[test]
fn what_is_new_changed_and_gone_is_seen() {
    let folder = folder(5);
    let at = folder.path();
    std::fs::create_dir_all(at.join("deep/trash")).unwrap();
    std::fs::create_dir(at.join(".hidden")).unwrap();
    for file in ["deep/a.BMP", "deep/trash/b.bmp", ".hidden/c.bmp", "deep/.d.bmp"] {
        std::fs::write(at.join(file), picture(77)).unwrap();
    }
    std::fs::write(at.join("notes.txt"), "no picture").unwrap();
    let first = json(&["index", "--json", "--exclude", "trash"], at);
    assert_eq!(
        (&first["pictures"], &first["encoded"], &first["complete"]),
        (&6.into(), &6.into(), &true.into())
    );
    let again = json(&["index", "--json"], at);
    assert_eq!((&again["encoded"], &again["same"]), (&1.into(), &6.into()), "{again}");

    std::fs::remove_file(at.join("0000.bmp")).unwrap();
    std::fs::write(at.join("0001.bmp"), [picture(9), vec![0]].concat()).unwrap();
    let changed = json(&["index", "--json"], at);
    assert_eq!(
        (&changed["encoded"], &changed["forgotten"], &changed["pictures"]),
        (&1.into(), &1.into(), &6.into())
    );
    let (out, _) = ended(run(&["search", "a", "colour", "--paths", "-n", "99"], at), 0);
    assert_eq!(out.lines().count(), 6);
    assert!(!out.contains("0000.bmp") && out.contains("deep/trash/b.bmp"), "{out}");
    // In a folder inside, only what lies below it, named from there.
    let (out, _) = ended(run(&["search", "a colour", "--paths0", "-n", "99"], &at.join("deep")), 0);
    let mut paths: Vec<&str> = out.split_terminator('\0').collect();
    paths.sort();
    assert_eq!(paths, ["a.BMP", "trash/b.bmp"]);
}

#[test]
fn answers_have_forms_and_statuses() {
    let folder = folder(4);
    let at = folder.path();
    let (out, err) = ended(run(&["search", "anything"], at), 2);
    assert!(
        out.is_empty() && err.contains("no index here or above") && err.contains("dualpath index"),
        "{err}"
    );
    let (out, err) = ended(run(&["index"], at), 0);
    assert!(out.is_empty() && err.contains("4 encoded"), "{out}{err}");
    let (out, err) = ended(run(&["index", "--quiet"], at), 0);
    assert!(out.is_empty() && err.is_empty());

    let (out, _) = ended(run(&["search", "green", "--json", "-n", "3"], at), 0);
    let hits: Vec<serde_json::Value> =
        out.lines().map(|it| serde_json::from_str(it).unwrap()).collect();
    let distance = |it: &serde_json::Value| it["distance"].as_f64().unwrap();
    assert!(hits.len() == 3 && hits.is_sorted_by_key(distance), "{out}");
    assert!(hits[0]["path"].as_str().unwrap().ends_with(".bmp") && hits[0]["rowid"].is_i64());
    let (out, _) = ended(run(&["search", "green", "-n", "1"], at), 0);
    assert_eq!(out, format!("{:.3}  {}\n", distance(&hits[0]), hits[0]["path"].as_str().unwrap()));
    let (out, _) = ended(run(&["search", "--like", "0002.bmp", "-n", "1", "--paths"], at), 0);
    assert_eq!(out, "0002.bmp\n");
    let away = ended(run(&["search", "green", "--not", "grass", "--json", "-n", "1"], at), 0).0;
    assert_ne!(away.lines().next(), Some(hits[0].to_string().as_str()));

    let (out, _) = ended(run(&["search", "green", "--within", "0.001"], at), 1);
    assert!(out.is_empty());
    ended(run(&["search"], at), 2);
    ended(run(&["search", " "], at), 2);
    ended(run(&["nonsense"], at), 2);
    ended(run(&["index", "nowhere"], at), 2);
    for page in
        [&["--help"][..], &["index", "--help"], &["search", "--help"], &["gallery", "--help"]]
    {
        let (out, err) = ended(run(page, at), 0);
        assert!(
            out.contains("Example")
                && out.contains("Exit status") | out.contains("Ctrl-C")
                && err.is_empty()
        );
    }
}

#[test]
fn what_telephones_and_the_web_write_is_indexed() {
    let folder = folder(1);
    let heic = include_bytes!("../../tests/pictures/quadrants.heic");
    std::fs::write(folder.path().join("IMG_0001.HEIC"), heic).unwrap();
    let avif = include_bytes!("../../tests/pictures/quadrants.avif");
    std::fs::write(folder.path().join("saved.avif"), avif).unwrap();
    assert_eq!(json(&["index", "--json"], folder.path())["encoded"], 3);
}

#[test]
fn broken_pictures_are_listed_and_left_out() {
    let folder = folder(3);
    let at = folder.path();
    std::fs::write(at.join("empty.jpg"), "").unwrap();
    std::fs::write(at.join("text.png"), "no picture").unwrap();
    let first = json(&["index", "--json"], at);
    let left_out = first["left_out"].as_array().unwrap();
    assert_eq!(
        (left_out.len(), &first["encoded"], &first["complete"]),
        (2, &3.into(), &true.into())
    );
    for (file, words) in [("empty.jpg", "is empty"), ("text.png", "no known signature")] {
        let it = left_out.iter().find(|it| it["path"] == file).unwrap();
        assert!(it["reason"].as_str().unwrap().contains(words), "{it}");
    }
    let (_, err) = ended(run(&["index"], at), 0);
    assert!(err.contains("2 left out") && err.contains("left out: empty.jpg: "), "{err}");
    std::fs::write(at.join("text.png"), picture(5)).unwrap();
    let mended = json(&["index", "--json"], at);
    assert_eq!((&mended["encoded"], mended["left_out"].as_array().unwrap().len()), (&1.into(), 1));
}

/// Pictures that a second, untouched process counts.
fn indexed(at: &Path) -> usize {
    let output = run(&["search", "a colour", "--paths", "-n", "100000"], at);
    output.stdout.iter().filter(|it| **it == b'\n').count()
}

fn wait_until(mut reached: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !reached() {
        assert!(begin.elapsed() < Duration::from_secs(120), "nothing happens");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[cfg(unix)]
fn signal(child: &Child, name: &str) {
    assert!(Command::new("kill").args([name, &child.id().to_string()]).status().unwrap().success());
}

#[cfg(unix)]
#[test]
fn a_stopped_index_goes_on() {
    const PICTURES: u32 = 800;
    let folder = folder(PICTURES);
    let at = folder.path();
    let begin =
        || tool(&["index"], at).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut child = begin();
    wait_until(|| 64 <= indexed(at));
    child.kill().unwrap();
    child.wait().unwrap();
    let after_kill = indexed(at);
    assert!(64 <= after_kill && after_kill < PICTURES as usize, "{after_kill}");

    let child = begin();
    wait_until(|| after_kill < indexed(at));
    signal(&child, "-INT");
    let (_, err) = ended(child.wait_with_output().unwrap(), 130);
    assert!(err.contains("the same command goes on"), "{err}");
    let after_stop = indexed(at);
    assert!(after_kill < after_stop && after_stop < PICTURES as usize, "{after_stop}");

    let rest = json(&["index", "--json"], at);
    assert_eq!(rest["encoded"].as_u64().unwrap() as usize + after_stop, PICTURES as usize);
    assert_eq!(indexed(at), PICTURES as usize);
}

/// One in a hundred is broken, in four ways; with a model so small that a picture of zeros has no direction,
/// which is what stands in a broken one's place while the others are encoded.
#[cfg(unix)]
#[test]
fn exactly_the_broken_ones_of_many_are_left_out() {
    const PICTURES: u32 = 3_000;
    let folder = folder(PICTURES);
    let at = folder.path();
    let mut broken = Vec::new();
    for number in (7..PICTURES).step_by(100) {
        let (bytes, reason) = match number / 100 % 4 {
            0 => (Vec::new(), "it is empty"),
            1 => (b"no picture".to_vec(), "no known signature"),
            2 => (picture(number)[..40].to_vec(), "cannot be read: "),
            _ => (vec![0; 58], "no known signature"),
        };
        let name = format!("{number:04}.bmp");
        std::fs::write(at.join(&name), bytes).unwrap();
        broken.push((name, reason));
    }
    let model = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/hub/clip");
    let mut child = tool(&["index", "--quiet", "--model", model], at).spawn().unwrap();
    let rows = || {
        let db = rusqlite::Connection::open(at.join(".dualpath.db")).ok()?;
        db.query_row("SELECT count(*) FROM album_seen", [], |row| row.get::<_, u32>(0)).ok()
    };
    wait_until(|| 64 <= rows().unwrap_or_default());
    signal(&child, "-INT");
    // It may have been at its end already.
    assert!(matches!(child.wait().unwrap().code(), Some(0 | 130)));
    let before = rows().unwrap();

    let rest = json(&["index", "--json", "--model", model], at);
    assert_eq!(rest["complete"], true);
    let left_out = rest["left_out"].as_array().unwrap();
    assert_eq!(left_out.len(), broken.len());
    for (it, (name, reason)) in left_out.iter().zip(&broken) {
        assert_eq!(it["path"].as_str(), Some(name.as_str()));
        assert!(it["reason"].as_str().unwrap().contains(reason), "{it}");
    }
    assert_eq!(rows(), Some(PICTURES));
    assert!(rest["encoded"].as_u64().unwrap() <= u64::from(PICTURES - before), "{rest}");
    let again = json(&["index", "--json", "--model", model], at);
    assert_eq!((&again["encoded"], again["left_out"].as_array().unwrap().len()), (&0.into(), 30));
}

#[cfg(unix)]
#[test]
fn nothing_outside_the_folder_is_read() {
    use std::os::unix::fs::symlink;

    let (inside, outside) = (folder(2), folder(0));
    let at = inside.path();
    std::fs::write(outside.path().join("secret.bmp"), picture(3)).unwrap();
    symlink(outside.path(), at.join("door")).unwrap();
    symlink(outside.path().join("secret.bmp"), at.join("window.bmp")).unwrap();
    let first = json(&["index", "--json"], at);
    assert_eq!((&first["pictures"], &first["encoded"]), (&2.into(), &2.into()));

    // A database that names files elsewhere gets none of them onto the contact sheet.
    let db = rusqlite::Connection::open(at.join(".dualpath.db")).unwrap();
    let elsewhere = outside.path().join("secret.bmp").display().to_string();
    db.execute("UPDATE photos SET file = ?1 WHERE file = '0000.bmp'", [&elsewhere]).unwrap();
    db.execute("UPDATE photos SET file = '../x.bmp' WHERE file = '0001.bmp'", []).unwrap();
    drop(db);
    ended(run(&["search", "a colour", "--sheet", "sheet.html"], at), 0);
    let sheet = std::fs::read_to_string(at.join("sheet.html")).unwrap();
    assert!(!sheet.contains("base64"), "{sheet}");
    assert!(
        sheet.contains("outside the folder")
            && sheet.contains("&#x27;..&#x27;") | sheet.contains("'..'")
    );
}

#[test]
fn a_database_elsewhere_belongs_to_one_folder() {
    let (first, second, other) = (folder(2), folder(1), folder(0));
    let name = other.path().join("album.db").display().to_string();
    ended(run(&["index", "--db", &name], first.path()), 0);
    assert!(!first.path().join(".dualpath.db").exists());
    let (_, err) = ended(run(&["index", "--db", &name], second.path()), 2);
    assert!(err.contains("is the index of"), "{err}");
    // Whole paths, as the pictures lie elsewhere; their files are read only where the caller names the folder.
    let (out, _) = ended(run(&["search", "a colour", "--db", &name, "--paths"], other.path()), 0);
    assert!(out.lines().all(|it| Path::new(it).is_file()), "{out}");
    let (_, err) =
        ended(run(&["search", "a", "--db", &name, "--sheet", "s.html"], other.path()), 2);
    assert!(err.contains("--root"), "{err}");
    let root = first.path().display().to_string();
    ended(
        run(&["search", "a", "--db", &name, "--sheet", "s.html", "--root", &root], other.path()),
        0,
    );
    assert!(std::fs::read_to_string(other.path().join("s.html")).unwrap().contains("base64"));

    std::fs::write(other.path().join("junk.db"), "no database").unwrap();
    let (_, err) = ended(run(&["search", "a", "--db", "junk.db"], other.path()), 2);
    assert!(err.ends_with("junk.db: cannot be read: file is not a database\n"), "{err}");

    let foreign = rusqlite::Connection::open(other.path().join("mine.db")).unwrap();
    foreign.execute_batch("CREATE TABLE notes(text)").unwrap();
    let (_, err) = ended(
        run(&["index", "--db", &other.path().join("mine.db").display().to_string()], second.path()),
        2,
    );
    assert!(err.contains("another program's"), "{err}");
}
