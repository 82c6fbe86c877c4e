//! What the pages and help pages tell people to type: commands of the tool run here as they stand, scripts
//! are those that CI runs, and `--data DATA` marks what needs data of one's own.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Stands before the tool: a gallery serves until it has said its address, as Ctrl-C would end it.
const TOOL: &str = r#"#!/bin/sh
case " $* " in
    *" gallery "*--help*) ;;
    *" gallery "*)
        "$TOOL" "$@" --port 0 >"$HOME/said" &
        for tenth in $(seq 200); do
            grep -q '^http://' "$HOME/said" && case " $* " in
                *" --open "*) [ -s "$HOME/opened" ] ;;
            esac && break
            sleep 0.1
        done
        kill $!
        grep '^http://' "$HOME/said"
        exit ;;
esac
exec "$TOOL" "$@"
"#;
/// Opens nothing, and tells what.
const OPENER: &str = "#!/bin/sh\necho \"$1\" >>\"$HOME/opened\"\n";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn text(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap()
}

/// The pages that tell people what to type.
fn pages() -> Vec<(String, String)> {
    let mut pages = vec!["README.md", "packages/python/README.md", "packages/node/README.md"]
        .into_iter()
        .map(str::to_owned)
        .collect::<Vec<_>>();
    for entry in fs::read_dir(root().join("docs")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if name.ends_with(".md") {
            pages.push(format!("docs/{name}"));
        }
    }
    pages.sort();
    pages.into_iter().map(|it| (text(&it), it)).map(|(text, name)| (name, text)).collect()
}

/// A page's blocks of a form.
fn blocks<'a>(page: &'a str, form: &str) -> Vec<&'a str> {
    let blocks = page.split("\n```").skip(1).step_by(2);
    blocks.filter_map(|it| it.strip_prefix(form)?.strip_prefix('\n')).collect()
}

/// Someone's home with pictures in it, and the tool among their programs.
struct Home {
    folder: tempfile::TempDir,
}

impl Home {
    fn new() -> Home {
        let folder = tempfile::tempdir().unwrap();
        let at = |it: &str| folder.path().join(it);
        for inside in ["bin", "Pictures/2024", "Pictures/trash", "Pictures/found", "card"] {
            fs::create_dir_all(at(inside)).unwrap();
        }
        for (file, red) in [("dog.jpg", 200), ("2024/car.jpg", 250), ("trash/old.jpg", 20)] {
            let picture = image::RgbImage::from_pixel(40, 30, image::Rgb([red, 60, 40]));
            picture.save(at("Pictures").join(file)).unwrap();
        }
        fs::copy(at("Pictures/dog.jpg"), at("card/one.jpg")).unwrap();
        for (name, script) in [("dualpath", TOOL), ("xdg-open", OPENER), ("open", OPENER)] {
            fs::write(at("bin").join(name), script).unwrap();
            let mode = Command::new("chmod").arg("+x").arg(at("bin").join(name)).status();
            assert!(mode.unwrap().success());
        }
        Home { folder }
    }

    /// Runs lines one after the other, until one fails.
    #[track_caller]
    fn run(&self, at: &str, lines: &str) -> String {
        let home = self.folder.path();
        let path = format!("{}:{}", home.join("bin").display(), std::env::var("PATH").unwrap());
        let output = Command::new("bash")
            .args(["-e", "-o", "pipefail", "-c", lines])
            .current_dir(home.join(at))
            .envs([("HOME", home.to_str().unwrap()), ("PATH", &path)])
            .envs([("TOOL", env!("CARGO_BIN_EXE_dualpath")), ("TMPDIR", home.to_str().unwrap())])
            .output()
            .unwrap();
        let (out, err) = (output.stdout, output.stderr);
        let said = String::from_utf8([out, err].concat()).unwrap();
        assert!(output.status.success(), "{lines}\n{said}");
        said
    }
}

#[test]
fn what_the_pages_say_of_the_tool_runs() {
    let mut ran = 0;
    for (name, page) in pages() {
        for block in blocks(&page, "sh").into_iter().filter(|it| it.contains("dualpath index")) {
            let home = Home::new();
            let ours = |it: &&str| it.starts_with("cd ") || it.contains("dualpath ");
            let lines: Vec<&str> = block.lines().filter(ours).collect();
            let lines = lines.join("\n").replace("target/release/dualpath", "dualpath");
            let said = home.run(".", &lines);
            assert!(
                said.contains("3 encoded") && said.contains("http://127.0.0.1:"),
                "{name}: {said}"
            );
            let opened = fs::read_to_string(home.folder.path().join("opened")).unwrap();
            assert!(opened.starts_with("http://127.0.0.1:"), "{opened}");
            ran += 1;
        }
    }
    assert_eq!(ran, 2);
}

#[test]
fn examples_of_the_help_pages_run() {
    let home = Home::new();
    home.run("Pictures", "dualpath index --quiet && dualpath index --quiet --db album.db");
    let mut ran = 0;
    for page in ["--help", "index --help", "search --help", "gallery --help"] {
        let said = home.run(".", &format!("dualpath {page}"));
        let examples = said.lines().skip_while(|it| !it.starts_with("Example")).skip(1);
        for line in examples.take_while(|it| it.starts_with("  ")) {
            // What it is for stands behind it.
            let line = line.trim().split("  ").next().unwrap();
            ran += 1;
            if line.contains("| jq") && Command::new("jq").arg("--version").output().is_err() {
                eprintln!("skipped: {line} (no jq)");
                continue;
            }
            let card = home.folder.path().join("card");
            home.run("Pictures", &line.replace("/media/card", card.to_str().unwrap()));
        }
    }
    assert!(18 <= ran, "{ran}");
    let found = fs::read_dir(home.folder.path().join("Pictures/found")).unwrap().count();
    assert_eq!(found, 2, "what `xargs -0 cp -t found/` copied");
}

/// Scripts that CI runs, by themselves or in others.
fn run_by_ci() -> Vec<String> {
    let mut known = vec![".ci/run".to_owned()];
    let mut at = 0;
    while let Some(script) = known.get(at).cloned() {
        at += 1;
        let text = text(&script);
        let commands = text.lines().filter(|it| !it.trim_start().starts_with('#'));
        for word in commands.flat_map(|it| it.split(|it: char| " \"'`;()&|".contains(it))) {
            let is_new = word.starts_with("scripts/") && !known.iter().any(|it| it == word);
            if is_new && root().join(word).is_file() {
                known.push(word.to_owned());
            }
        }
    }
    known
}

#[test]
fn other_commands_of_the_pages_are_run_by_ci_or_need_data() {
    let (known, mut seen) = (run_by_ci(), Vec::new());
    for (name, page) in pages() {
        for line in blocks(&page, "sh").iter().flat_map(|it| it.lines()) {
            for command in line.split('#').next().unwrap().split("&&").map(str::trim) {
                match command.split(' ').next().unwrap() {
                    script if script.starts_with("scripts/") => seen.push(script.to_owned()),
                    "dualpath" | "target/release/dualpath" | "cd" | "" => {}
                    // `training/tests/docs.rs` has the tool's own word for these.
                    "train" => {
                        // A model folder takes data to make.
                        let needs = ["--data DATA", "train half "];
                        let told = needs.iter().any(|it| command.contains(it));
                        assert!(told, "{name}: {command}");
                    }
                    "cargo" if command.contains("-p training -- ") => {
                        assert!(command.contains("--data DATA"), "{name}: {command}");
                    }
                    "cargo" => assert_eq!(command, "cargo build --release", "{name}"),
                    _ => panic!("{name}: nothing runs '{command}'"),
                }
            }
        }
        let inline = page.split('`').skip(1).step_by(2).filter(|it| it.starts_with("scripts/"));
        seen.extend(inline.map(|it| it.split(' ').next().unwrap().to_owned()));
    }
    assert!(6 < seen.len(), "{seen:?}");
    for script in seen {
        assert!(known.contains(&script), "{script} is in the pages, and .ci/run does not run it");
    }
    assert!(text("README.md").contains("`DATA` holds what the run file names"));
}

#[test]
fn the_guide_shows_the_schema_that_is_made() {
    let plain = |sql: &str| {
        let lines = sql.lines().map(|it| it.split("--").next().unwrap().trim());
        lines.filter(|it| !it.is_empty()).collect::<Vec<_>>().join("\n")
    };
    let guide = text("docs/app.md");
    let made = text("app/src/schema.sql").replace("IF NOT EXISTS ", "").replace("{model}", "");
    assert_eq!(plain(blocks(&guide, "sql")[0]), plain(&made));
    // The versions that this package itself is built with.
    let own = text("app/Cargo.toml");
    for line in blocks(&guide, "toml")[0].lines() {
        let version = line.split("version = ").nth(1).and_then(|it| it.split(',').next());
        let name = line.split(' ').next().unwrap();
        let version = version.map_or(String::new(), |it| format!("version = {it},"));
        assert!(own.contains(&format!("{name} = {{ {version}")), "{line}");
    }
    // The example that CI runs does what the guide's lines do.
    let example = text("examples/search.rs");
    let lines = blocks(&guide, "rust")[0].lines().filter(|it| !it.starts_with("let db"));
    for line in lines.map(|it| it.split("//").next().unwrap().trim()) {
        assert!(example.contains(line), "{line}");
    }
}
